"""Paths, commands, options and keys that the pages name exist."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

from tinyclip_edge.cli.app import app
from tinyclip_edge.config.reference import config_keys

ROOT = Path(__file__).parents[2]
PAGES = [
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "demo/*.md", "demo/web/*.md",
                    "tinyclip_starter/README.md", "tinyclip_starter/teacher/*.md")
    for page in sorted(ROOT.glob(pattern))
    if page.name != "CHANGELOG.md"  # it names what was there once
]  # fmt: skip
FOLDERS = ("tinyclip_edge", "export", "demo", "configs", "benchmarks", "tests", "docs", ".ci",
           "tinyclip_starter")  # fmt: skip
SECTIONS = ("teacher", "student", "inherit", "loss", "data", "optim", "masks", "run")
PLACEHOLDER = re.compile(r"NAME|[{}*…]")


def snippets(page):
    """The lines of code blocks, continued ones joined, and code in sentences."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        lines = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
        yield from (re.sub(r"(^|\s)#.*", "", line) for line in lines)
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def calls(page, program):
    """The words after ``program`` in each command line, as far as a pipe."""
    for line in snippets(page):
        for rest in re.findall(rf"(?:^|[\s/]){program} ([^|;&]+)", line):
            yield rest.split()


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    # Not within an address or another path; without a full stop or a comma behind it.
    names = re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[^\s`'\")(\]|,;:<>]*", text)
    names = [name.rstrip(".") for name in names if not PLACEHOLDER.search(name)]
    lines = [words for program in ("python", "tinyclip-edge") for words in calls(page, program)]
    made = {name for words in lines for option, name in pairwise(words) if option == "--out"}
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    assert [name for name in names if not (ROOT / name).exists() and name not in made] == []
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_options_they_are_called_with(page):
    commands = get_command(app).commands
    for words in calls(page, "tinyclip-edge"):
        if words[0].startswith(("-", "[")) or not re.fullmatch(r"[a-z]+", words[0]):
            continue
        assert words[0] in commands
        options = {o for p in commands[words[0]].params for o in (*p.opts, *p.secondary_opts)}
        used = {word.partition("=")[0] for word in words[1:] if re.match(r"--[a-z]", word)}
        assert used <= options | {"--help"}, words


@pytest.mark.parametrize("page", PAGES)
def test_scripts_have_the_options_they_are_called_with(page):
    for words in calls(page, "python"):
        if not words[0].endswith(".py"):
            continue
        script = ROOT / words[0]
        source = script.read_text(encoding="utf-8")
        for module, names in re.findall(r"^from (\w+) import (\([^)]*\)|.*)$", source, re.M):
            if "_parser" in names:  # options that several benchmarks share
                source += (script.parent / f"{module}.py").read_text(encoding="utf-8")
        for word in words[1:]:
            if re.match(r"--[a-z]", word):
                assert f'"{word.partition("=")[0]}"' in source, words


@pytest.mark.parametrize("page", PAGES)
def test_keys_of_a_run_exist(page):
    keys = {entry.key for entry in config_keys("run")}
    keys |= {key.rpartition(".")[0] for key in keys}
    text = (ROOT / page).read_text(encoding="utf-8")
    # Terms of a plugin that the page describes.
    plugins = tuple(f"loss.{name}" for name in re.findall(r'^(\w+) = "\w+:', text, re.MULTILINE))
    pattern = rf"(?<![\w./-])(?:{'|'.join(SECTIONS)})\.[a-z_]+(?![\w/-])(?:\.[a-z_]+)?"
    for line in snippets(page):
        for name in re.findall(pattern, line):
            if not name.endswith((".yaml", ".json", ".jsonl", ".py", ".csv", ".tar", ".html")):
                assert name in keys or name.startswith(("student.model.", *plugins)), line


def test_every_room_is_described():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = {p.parent.relative_to(ROOT).as_posix() for p in ROOT.glob("tinyclip_edge/*/*.py")}
    rooms |= {p.parent.name for p in ROOT.glob("tinyclip_edge/train/*/*.py")}
    rooms |= {p.parent.name for p in ROOT.glob("export/tinyclip_export/*/*.py")}
    files = {p.name for p in ROOT.glob("tinyclip_edge/[a-z]*.py")}
    assert len(rooms) > 20
    assert [name for name in sorted(rooms | files) if not re.search(f"[`/]{name}`", text)] == []
