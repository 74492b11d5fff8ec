"""The table of families: what the package ships is what running it gives."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import transformers

from tinyclip_edge.errors import ModelError
from tinyclip_edge.families import abilities
from tinyclip_edge.families.published import PUBLISHED
from tinyclip_edge.families.table import SHIPPED, family_names, make_table, shipped_table

ABILITIES = ["export int8", "inherit", "masks", "trim", "read"]
# The others take half an hour together; each of their cells has a test of its own elsewhere.
SLOW = ("RoBERTa", "CLIPA", "SigLIP 2")


@pytest.mark.usefixtures("quick_exports")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.hours)
        for name in family_names()
    ],
)
def test_the_shipped_row_is_what_running_it_gives(name):
    """Without transformers' own model, its folders cannot be compared, and the cell says so."""
    made = {ability: (c.works, c.reason) for ability, c in make_table([name]).rows[name].items()}
    shipped = {ability: c.works for ability, c in shipped_table().rows[name].items()}
    if name in PUBLISHED and PUBLISHED[name].model_type not in transformers.CONFIG_MAPPING:
        assert f"install transformers {PUBLISHED[name].since} or newer" in made["read"][1]
        shipped["read"] = False
    assert {ability: works for ability, (works, _) in made.items()} == shipped, made


def test_a_model_that_transformers_lacks_is_a_no_with_the_version_that_has_it(monkeypatch):
    worldwide = PUBLISHED["MetaCLIP 2 worldwide"]
    monkeypatch.setitem(PUBLISHED, "AltCLIP", replace(worldwide, model_type="metaclip_9"))
    for other in ("export int8", "inherit", "masks", "trim"):
        monkeypatch.setitem(abilities.ABILITIES, other, lambda _name, _folder: None)
    cell = make_table(["AltCLIP"]).rows["AltCLIP"]["read"]
    assert cell.as_dict() == {
        "works": False,
        "reason": f"transformers {transformers.__version__} has no model 'metaclip_9' to compare "
        "with; install transformers 4.56 or newer",
    }


def test_the_shipped_table_has_every_family_and_ability():
    table = shipped_table()
    assert list(table.rows) == family_names()
    assert all(list(cells) == ABILITIES for cells in table.rows.values())
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == table.as_dict()


def test_no_cell_is_no_for_a_plain_clip():
    cells = shipped_table().rows["ViT"].values()
    assert all(cell.works for cell in cells)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelError("its towers are\nof clay"), "its towers are\\nof clay"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_cell_that_fails_is_a_no_with_its_reason(monkeypatch, error, reason):
    def check(_name, _folder):
        raise error

    monkeypatch.setitem(abilities.ABILITIES, "masks", check)
    for other in ("export int8", "inherit", "trim", "read"):
        monkeypatch.setitem(abilities.ABILITIES, other, lambda _name, _folder: None)
    lines = []
    table = make_table(["ViT"], notify=lines.append)
    assert table.rows["ViT"]["masks"].as_dict() == {"works": False, "reason": reason}
    assert [cell.works for cell in table.rows["ViT"].values()] == [True, True, False, True, True]
    assert lines == ["1 of 1: ViT: export int8 yes, inherit yes, masks no, trim yes, read yes"]
    assert f"- ViT (masks): {reason}" in table.markdown()


def test_a_difference_is_a_no(monkeypatch):
    """A masked model that is not the pruned one, and a smaller vocabulary of other embeddings."""
    monkeypatch.setattr(abilities, "CLOSE", -1.0)
    monkeypatch.setattr(abilities, "SAME", -1.0)
    for ability in ("masks", "trim", "inherit"):
        with pytest.raises(ModelError, match="embeddings differ by"):
            abilities.ABILITIES[ability]("ViT", SHIPPED.parent)


def test_the_command(command_line):
    code, out, err = command_line("models", "--families")
    assert (code, err) == (0, "")
    assert "SigLIP 2" in out
    reason = "jina-clip (export int8, inherit, masks, trim, read): jina-clip/config.json describes"
    assert " ".join(out.split()).count(reason) == 1
    code, out, _ = command_line("models", "--families", "--json")
    assert (code, json.loads(out)) == (0, shipped_table().as_dict())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run"], "--run requires --families"),
        (["--families", "--family", "ViT"], "--family requires --run"),
        (["--families", "--run", "--family", "VIT"], "no family 'VIT'; did you mean 'ViT'?"),
    ],
)
def test_mistakes_are_one_line(command_line, words, message):
    code, out, err = command_line("models", *words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
