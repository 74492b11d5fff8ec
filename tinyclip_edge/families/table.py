"""The table of families and abilities: generate, read and print it.

After a change in what works, run ``python -m tinyclip_edge.families.table [FAMILY …]``, which
regenerates these rows of the shipped file (by default all), then ``python docs/generate.py``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ConfigError, TinyClipError, did_you_mean, one_line

if TYPE_CHECKING:
    from rich.table import Table

    from tinyclip_edge.families.abilities import Check

SHIPPED = Path(__file__).with_name("table.json")
LIBRARIES = ("tinyclip-edge", "torch", "open_clip_torch", "timm", "transformers", "onnxruntime")
TITLE = "What works for which family"


@dataclass(frozen=True, slots=True)
class Cell:
    """Whether an ability works for a family, and if not, why."""

    works: bool
    reason: str = ""

    @property
    def word(self) -> str:
        """``yes`` or ``no``."""
        return "yes" if self.works else "no"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"works": self.works, **({} if self.works else {"reason": self.reason})}


@dataclass(frozen=True, slots=True)
class FamilyTable:
    """Cells by family and ability, with the day and the libraries they were made with."""

    made: str  # ISO date
    versions: dict[str, str]
    rows: dict[str, dict[str, Cell]]

    @property
    def abilities(self) -> list[str]:
        """The columns."""
        return list(next(iter(self.rows.values()), {}))

    @property
    def notes(self) -> list[str]:
        """A line for each reason: the family, the abilities that do not work, the reason."""
        abilities: dict[tuple[str, str], list[str]] = {}
        for family, cells in self.rows.items():
            for ability, cell in cells.items():
                if not cell.works:
                    abilities.setdefault((family, cell.reason), []).append(ability)
        return [
            f"{family} ({', '.join(names)}): {reason}"
            for (family, reason), names in abilities.items()
        ]

    @property
    def origin(self) -> str:
        """The date and the library versions that it was made with, in one line."""
        libraries = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"Made on {self.made} with {libraries}."

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, the content of the shipped file."""
        families = [
            {"family": family, **{name: cell.as_dict() for name, cell in cells.items()}}
            for family, cells in self.rows.items()
        ]
        return {"made": self.made, "versions": self.versions, "families": families}

    def table(self) -> Table:
        """Return it for the terminal."""
        from rich.box import SIMPLE

        from tinyclip_edge.plain_table import PlainTable

        table = PlainTable(
            title=TITLE, caption=self.origin, box=SIMPLE, show_edge=False, padding=(0, 1)
        )
        table.add_column("family", no_wrap=True)
        for ability in self.abilities:
            table.add_column(ability, justify="center", no_wrap=True)
        for family, cells in self.rows.items():
            table.add_row(family, *(cell.word for cell in cells.values()))
        return table

    def markdown(self) -> str:
        """Return it for the documentation, with the reasons below."""
        rows = [["family", *self.abilities], ["---"] * (1 + len(self.abilities))]
        rows += [[name, *(c.word for c in cells.values())] for name, cells in self.rows.items()]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes), "", self.origin])


def shipped_table() -> FamilyTable:
    """Return the table that the package ships."""
    content = json.loads(SHIPPED.read_text(encoding="utf-8"))
    rows = {
        row.pop("family"): {name: Cell(**cell) for name, cell in row.items()}
        for row in content["families"]
    }
    return FamilyTable(content["made"], content["versions"], rows)


def family_names() -> list[str]:
    """Return the families of the table."""
    from tinyclip_edge.families.published import FOREIGN
    from tinyclip_edge.families.siblings import SIBLINGS

    return [*SIBLINGS, *FOREIGN]


def make_table(
    families: Sequence[str] = (), *, notify: Callable[[str], None] = lambda _: None
) -> FamilyTable:
    """Try every ability on a small sibling of each family, by default of all families.

    ``notify`` receives a line of progress after each family. Raises ConfigError for an unknown
    family.
    """
    from tinyclip_edge.families.abilities import ABILITIES

    known = family_names()
    for name in families:
        if name not in known:
            raise ConfigError(f"there is no family '{name}'{did_you_mean(name, known)}")
    rows = {}
    for number, name in enumerate(chosen := list(families or known), 1):
        rows[name] = {ability: _tried(check, name) for ability, check in ABILITIES.items()}
        words = ", ".join(f"{ability} {cell.word}" for ability, cell in rows[name].items())
        notify(f"{number} of {len(chosen)}: {name}: {words}")
    return FamilyTable(date.today().isoformat(), _versions(), rows)


def _tried(check: Check, name: str) -> Cell:
    """Return whether a check passes; any error it raises becomes the reason for a ``no``."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(name, Path(folder))
        except TinyClipError as error:
            return Cell(False, str(error).replace(f"{folder}/", ""))
        # Any other failure is a "no", too, and does not stop the remaining checks.
        except Exception as error:
            return Cell(False, one_line(f"{type(error).__name__}: {error}"))
    return Cell(True)


def _versions() -> dict[str, str]:
    numbers = {}
    for library in LIBRARIES:
        try:
            numbers[library] = version(library)
        except PackageNotFoundError:
            continue
    return numbers


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(families: Sequence[str]) -> None:
    """Regenerate rows of the shipped table; the others stay as they are."""
    made = make_table(families, notify=_to_stderr)
    rows = {**(shipped_table().rows if SHIPPED.is_file() else {}), **made.rows}
    table = replace(made, rows={name: rows[name] for name in family_names() if name in rows})
    SHIPPED.write_text(json.dumps(table.as_dict(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
