"""Tables in pages, written from result files.

``<!-- table: NAME -->`` and ``<!-- end -->`` enclose the table NAME of a page. If one of its result
files is missing, the existing text is left unchanged.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
_BLOCK = re.compile(r"^<!-- table: (\S+) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)
Result = dict[str, Any]  # a result file


@dataclass(frozen=True, slots=True)
class Table:
    """A table; ``markdown`` takes the contents of the result ``files``, in their order.

    ``timed``: processors and their loads are listed below the table.
    """

    markdown: Callable[..., str]
    files: tuple[str, ...]
    timed: bool = False

    def missing(self, results: Path = RESULTS) -> list[str]:
        """Return the missing result files."""
        return [name for name in self.files if not (results / name).is_file()]

    def text(self, results: Path = RESULTS) -> str:
        """Return the table; all result files must exist."""
        files = [(results / name).read_text(encoding="utf-8") for name in self.files]
        contents = [json.loads(text) for text in files]
        machines = dict.fromkeys(map(_machine, contents)) if self.timed else ()
        return "\n\n".join([self.markdown(*contents), *machines])


def _machine(result: Result) -> str:
    machine = result["machine"]
    load = machine.get("load")
    busy = max(load) if isinstance(load, list) else load  # a list: before and after
    about = f"{machine['cores']} cores" + ("" if busy is None else f", load {busy:g}")
    return f"{machine['cpu']} ({', '.join(machine['flags'])}), {about}."


def filled(page: str, tables: Mapping[str, Table], results: Path = RESULTS) -> str:
    """Return a page's text with its tables filled in; raise KeyError for an unknown name."""

    def block(match: re.Match[str]) -> str:
        table = tables[match[1]]
        if table.missing(results):
            return match[0]
        return f"<!-- table: {match[1]} -->\n\n{table.text(results)}\n\n<!-- end -->"

    return _BLOCK.sub(block, page)


def names_in(page: str) -> list[str]:
    """Return the names of the tables of a page."""
    return [match[1] for match in _BLOCK.finditer(page)]


def rows(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(
        "|" + "".join(f" {cell} |" if cell != "" else " |" for cell in line) for line in lines
    )


def bold(text: object, wanted: bool = True) -> str:
    return f"**{text}**" if wanted else str(text)


def of_seeds(values: Sequence[float], *, best: bool = False) -> str:
    """Return the mean of a figure and, if there are several seeds, each seed's value."""
    mean = bold(f"{statistics.mean(values):.1f}", best)
    return mean if len(values) == 1 else f"{mean} ({each(values)})"


def each(values: Iterable[float], form: str = ".1f") -> str:
    """Return values one by one."""
    return ", ".join(f"{value:{form}}" for value in values)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def millions(number: float, digits: int = 2) -> str:
    return f"{number / 1e6:.{digits}f}"
