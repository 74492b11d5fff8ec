"""The result of an export: files, verification and time, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.notebook import NotebookReport
from tinyclip_edge.paths import model_name
from tinyclip_edge.units import three_digits

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class ExportReport(NotebookReport):
    """One finished export."""

    folder: Path
    name: str
    precisions: tuple[str, ...]
    towers: Mapping[str, Mapping[str, str]]  # tower -> precision -> relative path
    verification: Mapping[str, Any]
    engine: Mapping[str, Any] = field(default_factory=dict)  # the manifest's entry, if there is one
    files: Mapping[str, int] = field(default_factory=dict)  # relative path -> bytes
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds
    warnings: tuple[str, ...] = ()  # failed checks that are not gates

    def tower_bytes(self, precision: str) -> int:
        """Return the size of both towers of a precision, in bytes."""
        return sum(self.files[paths[precision]] for paths in self.towers.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": str(self.folder),
            "name": self.name,
            "precisions": list(self.precisions),
            "files": dict(self.files),
            "verification": dict(self.verification),
            **({"engine": dict(self.engine)} if self.engine else {}),
            "seconds": dict(self.seconds),
            "warnings": list(self.warnings),
        }

    def table(self) -> Table:
        """Return a rich table with one row per precision."""
        from rich.box import SIMPLE_HEAD

        from tinyclip_edge.plain_table import PlainTable

        pairs, base = self.verification["pairs"], self.verification["reference_recall@1"]
        table = PlainTable(
            title=f"{model_name(self.folder)}: verified on {pairs:,} pairs",
            caption=f"PyTorch: recall@1 {base:.1f} %; cosine: minimum; lost: ± standard error, "
            f"{self.verification['max_drop']:g} and one standard error allowed, ? if there are too "
            "few pairs to decide; ms: one input on this machine during verification, and speed "
            "relative to fp32",
            box=SIMPLE_HEAD,
            padding=(0, 0),
        )
        table.add_column("")
        for column in ("MB", "cosine\nimage", "\ntext", "recall\n@1, %", "lost,\npoints"):
            table.add_column(column, justify="right", no_wrap=True)
        for column in ("same\ntop1 %", "image\nms", "text\nms"):
            table.add_column(column, justify="right", no_wrap=True)
        for precision in self.precisions:
            figures = self.verification["precisions"][precision]
            table.add_row(precision, *_cells(self.tower_bytes(precision), figures))
        for precision, figures in self.engine.get("verification", {}).items():
            label = f"{self.engine['name']} {precision}"
            table.add_row(label, *_cells(self.engine_bytes(precision), figures))
        return table

    def search_tables(self) -> list[Table]:
        """Return a table for each searched precision."""
        from tinyclip_export.sensitivity.pareto import search_table

        first_search = self.verification.get("sensitivity")
        further_searches = self.verification.get("more_sensitivity", ())
        return [
            search_table(search)
            for search in ([first_search, *further_searches] if first_search else [])
        ]

    def engine_bytes(self, precision: str) -> int:
        """Return the size of the engine's files of both towers, such as .xml and .bin."""
        stems = [Path(path).with_suffix("") for path in self.engine["files"][precision].values()]
        return sum(size for path, size in self.files.items() if Path(path).with_suffix("") in stems)


def _cells(size: int, figures: Mapping[str, Any]) -> list[str]:
    image, text, ranking = figures["image"], figures["text"], figures["ranking"]
    is_undecided = figures["checks"]["ranking"] is None
    return [
        three_digits(size / 1e6),
        f"{image['cosine_min']:.5f}",
        f"{text['cosine_min']:.5f}",
        f"{ranking['recall@1']:.1f}",
        f"{ranking['recall@1_drop']:+.2f}±{ranking['recall@1_stderr']:.2f}" + "?" * is_undecided,
        f"{ranking['top1_agreement']:.1f}",
        *(_time(figures) for figures in (image, text)),
    ]


def _time(figures: Mapping[str, Any]) -> str:
    """Format milliseconds, and the speed relative to fp32."""
    ratio = figures.get("times_faster")
    return three_digits(figures["ms"]) + (
        "" if not ratio else f" {ratio:.0f}x" if ratio >= 9.95 else f" {ratio:.1f}x"
    )
