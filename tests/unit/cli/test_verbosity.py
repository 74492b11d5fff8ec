"""--quiet, --verbose, and what Ctrl-C leaves, in every command."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest
from typer.main import get_command

from tinyclip_edge.cli import app as app_module
from tinyclip_edge.cli.app import app
from tinyclip_edge.cli.commands import COMMANDS, wrapped
from tinyclip_edge.cli.options import progress_console, say, say_result
from tinyclip_edge.cli.verbosity import LOGGERS
from tinyclip_edge.errors import DataError, TinyClipWarning


@pytest.fixture
def talk(monkeypatch):
    """``tinyclip-edge talk``, which writes one line of each kind; ``talk.body`` runs last."""
    monkeypatch.setattr("os.environ", os.environ.copy())  # --quiet adds to it

    def function() -> None:
        say("progress")
        progress_console().print("bar")
        logging.getLogger("tinyclip_edge.x").info("read %s", "http://me:secret@host/file?token=1")
        logging.getLogger("other").info("of a library")
        say_result("made: x")
        sys.stdout.write("result\n")
        function.body()

    function.body = lambda: None
    added = app_module.typer.Typer(rich_markup_mode=None)
    added.callback()(app_module._root)
    added.command("talk")(wrapped(function))
    monkeypatch.setattr(app_module, "app", added)
    return function


@pytest.mark.parametrize("words", [("-q", "talk"), ("talk", "-q"), ("--quiet", "talk")])
def test_quiet_leaves_errors_and_the_result(talk, command_line, words):
    assert command_line(*words) == (0, "result\n", "made: x\n")

    def fail():
        raise DataError("no file")

    talk.body = fail
    assert command_line(*words) == (2, "result\n", "made: x\nerror: no file\n")


def test_the_next_command_is_not_quiet(talk, command_line):
    command_line("talk", "--quiet")
    _, out, err = command_line("talk")
    assert out == "result\n"
    assert err.splitlines() == ["progress", "bar", "made: x"]


def test_warnings_are_one_line_or_none(talk, command_line):
    """pytest records warnings before they are written."""
    line = app_module._warning_line
    for words, expected in ((("talk",), "warning: odd\n"), (("talk", "-q"), "")):
        command_line(*words)
        assert line("odd", TinyClipWarning, "x.py", 1) == expected
        assert "x.py:1: UserWarning: odd" in line("odd", UserWarning, "x.py", 1)


@pytest.mark.parametrize("words", [("-v", "talk"), ("talk", "--verbose")])
def test_verbose_says_what_is_read_and_when(talk, command_line, words):
    code, out, err = command_line(*words)
    assert (code, out) == (0, "result\n")
    details = re.findall(r"^ +\d+\.\d\d s  (.*)$", err, re.MULTILINE)
    assert details == ["read http://…@host/file?…", "done"]
    command_line("talk")
    assert all(not logging.getLogger(name).handlers for name in LOGGERS)


def test_verbose_shows_what_an_error_came_from(talk, command_line):
    def fail():
        try:
            {}["https://me:secret@host"]
        except KeyError:
            raise DataError("no such label") from None

    talk.body = fail
    code, _, err = command_line("talk")
    assert code == 2 and "Traceback" not in err
    code, _, err = command_line("talk", "-v")
    assert code == 2 and err.endswith("\nerror: no such label\n")
    assert "KeyError: 'https://…@host'" in err and "in fail" in err and "secret" not in err


def test_both_at_once_are_refused(talk, command_line):
    code, out, err = command_line("talk", "-v", "-q")
    assert (code, out) == (2, "") and err == (
        "error: --verbose and --quiet contradict each other; choose one\n"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_both(name):
    options = {flag for parameter in get_command(app).commands[name].params
               for flag in parameter.opts}  # fmt: skip
    assert {"--verbose", "-v", "--quiet", "-q"} <= options


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_an_interrupt_is_one_line_that_says_how_to_go_on(command, command_line, monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    one = app_module.typer.Typer(rich_markup_mode=None)
    one.callback()(app_module._root)
    one.command("one")(wrapped(interrupt, command.interrupted))
    monkeypatch.setattr(app_module, "app", one)
    code, out, err = command_line("one")
    assert (code, out) == (130, "")
    assert err == f"interrupted; {command.interrupted}\n" and "error" not in err


def test_bars_of_downloads_are_quiet_too(talk, command_line, monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    command_line("talk", "-q")
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"


def test_of_several_processes_the_first_says_that_it_was_interrupted(
    talk, command_line, monkeypatch
):
    def interrupt():
        raise KeyboardInterrupt

    talk.body = interrupt
    monkeypatch.setattr(app_module, "GRACE", 0)
    monkeypatch.setenv("RANK", "1")
    code, _, err = command_line("talk", "-q")
    assert code == 130 and "interrupted" not in err


@pytest.mark.parametrize("place", ["the import", "the options"])
def test_an_interrupt_before_the_command_begins_is_one_line_too(place):
    code = {
        "the import": "sys.modules['tinyclip_edge.cli.app'] = Late()",
        "the options": "from tinyclip_edge.cli import app; app.set_verbosity = interrupt",
    }[place]
    script = (
        "import sys\n"
        "def interrupt(*_, **__): raise KeyboardInterrupt\n"
        "class Late:\n"
        "    __getattr__ = interrupt\n"
        f"{code}\n"
        "sys.argv = ['tinyclip-edge', 'models']\n"
        "from tinyclip_edge.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; nothing was changed\n"
