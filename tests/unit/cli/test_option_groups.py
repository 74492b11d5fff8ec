"""Options that are fields of dataclasses: parsed as any other, handed on as objects."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tinyclip_edge.cli.option_groups import with_option_groups


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(min=1, help="Pixels across.")] = 3
    tall: Annotated[bool, typer.Option("--tall")] = False


@dataclass(frozen=True)
class Names:
    name: Annotated[list[str] | None, typer.Option()] = None


@pytest.fixture
def calls():
    return []


@pytest.fixture
def app(calls):
    @with_option_groups
    def draw(
        shape: Annotated[str | None, typer.Argument()] = None, *, size: Size, names: Names
    ) -> None:
        """Draw a shape."""
        calls.append((shape, size, names))

    application = typer.Typer()
    application.command()(draw)
    return application


@pytest.mark.parametrize(
    ("arguments", "size", "names"),
    [
        ([], Size(3, False), Names(None)),
        (["--width", "7", "--tall"], Size(7, True), Names(None)),
        (["--name", "a", "--name", "b"], Size(3, False), Names(["a", "b"])),
    ],
)
def test_each_group_is_one_object(app, calls, arguments, size, names):
    assert CliRunner().invoke(app, ["ring", *arguments]).exit_code == 0
    assert calls == [("ring", size, names)]


def test_limits_and_help_of_the_fields_hold(app, calls):
    assert CliRunner().invoke(app, ["ring", "--width", "0"]).exit_code == 2
    assert calls == []
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "Draw a shape." in shown
    assert "Pixels across." in shown
