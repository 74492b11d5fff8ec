"""What an export produced: files, verification, time; as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(slots=True)
class ExportReport:
    """One finished export."""

    folder: Path
    name: str
    precisions: tuple[str, ...]
    towers: Mapping[str, Mapping[str, str]]  # tower -> precision -> relative path
    verification: Mapping[str, Any]
    files: Mapping[str, int] = field(default_factory=dict)  # relative path -> bytes
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds

    def tower_bytes(self, precision: str) -> int:
        """Return the bytes of both towers of a precision."""
        return sum(self.files[paths[precision]] for paths in self.towers.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": str(self.folder),
            "name": self.name,
            "precisions": list(self.precisions),
            "files": dict(self.files),
            "verification": dict(self.verification),
            "seconds": dict(self.seconds),
        }

    def table(self) -> Table:
        """Return a rich table with one row a precision."""
        from rich.table import Table

        pairs, base = self.verification["pairs"], self.verification["reference_recall@1"]
        table = Table(
            title=f"{self.name}: verified on {pairs} pairs",
            caption=f"PyTorch: recall@1 {base:.1f} %; ms: one input, this machine, while verifying",
        )
        table.add_column("precision")
        for column in ("MB", "min cosine image", "text", "recall@1 %", "lost, points"):
            table.add_column(column, justify="right")
        for column in ("top-1 agrees %", "image ms", "text ms"):
            table.add_column(column, justify="right")
        for precision in self.precisions:
            table.add_row(precision, *self._cells(precision))
        return table

    def _cells(self, precision: str) -> list[str]:
        found = self.verification["precisions"][precision]
        image, text, ranking = found["image"], found["text"], found["ranking"]
        return [
            f"{self.tower_bytes(precision) / 1e6:.2f}",
            f"{image['cosine_min']:.5f}",
            f"{text['cosine_min']:.5f}",
            f"{ranking['recall@1']:.1f}",
            f"{ranking['recall@1_drop']:+.2f} ± {ranking['recall@1_stderr']:.2f}",
            f"{ranking['top1_agreement']:.1f}",
            f"{image['ms']:.2f}",
            f"{text['ms']:.2f}",
        ]
