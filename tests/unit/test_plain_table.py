"""Names of files in tables: shown as they are, whatever is in them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tinyclip_edge.api.bundles import BundleCheck
from tinyclip_edge.plain_table import PlainTable
from tinyclip_edge.train.run_list import list_runs

NAMES = ("[/x]", "[red]a[/red]", ":cat:", "a\\[b]")


def printed(table):
    stream = io.StringIO()
    Console(file=stream, width=120, force_terminal=True, color_system=None).print(table)
    return stream.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_brackets_are_no_markup_anywhere_in_a_table(name):
    table = PlainTable(title=f"title {name}", caption=f"caption {name}")
    table.add_column("")
    table.add_row(name)
    assert printed(table).count(name) == 3


def test_an_escape_sequence_does_not_reach_the_terminal():
    table = PlainTable(title="a\x1b[2J", caption="\u202eb\ud800")
    table.add_column("")
    table.add_row("c\x1b]0;x\a", end_section=True)
    text = printed(table)
    assert "\x1b" not in text and "\a" not in text and "\u202e" not in text
    assert r"a\x1b[2J" in text and r"\u202eb\ud800" in text and r"c\x1b]0;x\x07" in text


def test_runs_are_listed_by_any_name(tmp_path):
    names = ("[red]", "a[b]", ":cat:", "c\x1b[2J")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("name: x\n")
    text = printed(list_runs(tmp_path).table())
    assert all(name.replace("\x1b", r"\x1b") in text for name in names)


def test_a_checked_bundle_has_any_name(tmp_path):
    checked = BundleCheck(tmp_path, "[/b]\x1b[2J", files=0, replays=())
    assert r"[/b]\x1b[2J: golden vectors" in printed(checked.table())
