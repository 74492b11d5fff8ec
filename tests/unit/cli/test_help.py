"""The help of every command, as a newcomer reads it in 80 columns."""

import pytest
from typer.testing import CliRunner

from tinyclip_edge.cli.app import app
from tinyclip_edge.cli.commands import COMMANDS

MAIN = ("distill", "export", "index", "search", "classify", "serve", "eval")


def help_of(*words):
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    return result.output


def test_each_command_has_a_whole_sentence_in_the_list():
    listed = help_of().partition("Commands:\n")[2].splitlines()
    assert len(listed) == len(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("..") for line in listed)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_help_fits_and_shows_examples(command):
    text = help_of(command.name)
    assert max(map(len, text.splitlines())) <= 80
    assert "range>" not in text  # N and X instead
    examples = [line.split("tinyclip-edge ")[1] for line in text.splitlines()
                if line.startswith("    tinyclip-edge ")]  # fmt: skip
    assert examples == list(command.examples)
    assert all(example.split()[0] == command.name for example in examples)
    assert examples or command.name not in MAIN


def test_a_shell_completes_commands():
    words = {"COMP_WORDS": "tinyclip-edge cl", "COMP_CWORD": "1"}
    runner = CliRunner(env={**words, "_TINYCLIP_EDGE_COMPLETE": "complete_bash"})
    result = runner.invoke(app, [], prog_name="tinyclip-edge")
    assert result.output.split() == ["classify", "clean"]
