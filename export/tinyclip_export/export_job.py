"""One export in progress: what is exported where, its float towers, and the time of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.targets import TARGETS
from tinyclip_export.layout import TOWER_IO, InputForm
from tinyclip_export.quantization.tower_writer import TowerWriter
from tinyclip_export.settings import ExportSettings, PairSupplier
from tinyclip_export.verification.embeddings import Pairs

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.models.tokenizer_files import SpecialTokens


@dataclass(frozen=True, slots=True)
class ExportJob:
    """The request of one export, and the folders that it writes to."""

    clip: LoadedClip
    folder: Path  # becomes the bundle
    scratch: Path  # temporary files
    name: str
    precisions: tuple[str, ...]
    pairs: Pairs  # for the verification
    max_drop: float  # points of recall@1
    settings: ExportSettings

    @property
    def written_precisions(self) -> tuple[str, ...]:
        """Precisions on disk during verification; the others are timed against fp32."""
        return ("fp32", *(name for name in self.precisions if name != "fp32"))

    @property
    def default_precision(self) -> str:
        """The precision that a bundle opens in."""
        return "int8" if "int8" in self.precisions else self.precisions[0]

    @property
    def static_batch(self) -> int | None:
        """Fixed batch size of the towers: the request's, else the target's; None for any."""
        return self.settings.extras.static_batch or self.settings.preset.inputs.batch

    @property
    def suffix(self) -> str:
        """Suffix of the towers' files in the finished bundle."""
        target = self.settings.preset.target
        return ".onnx" if target is None else TARGETS[target].suffix

    def bundle_files(self, precision: str) -> dict[str, str]:
        """Return the files of both towers in the finished bundle, relative to it."""
        return {
            tower: Path(io.path(precision)).with_suffix(self.suffix).as_posix()
            for tower, io in TOWER_IO.items()
        }

    def paths(self, precision: str) -> dict[str, Path]:
        """Return the files of both towers in a precision."""
        return {tower: self.folder / io.path(precision) for tower, io in TOWER_IO.items()}


@dataclass(frozen=True, slots=True)
class FloatTowers:
    """The exported fp32 towers, from which all other precisions are made."""

    writer: TowerWriter
    form: InputForm
    special: SpecialTokens
    calibration_pairs: PairSupplier  # read once, at the first call


class StageTimer:
    """Seconds of each stage; a stage that is entered again adds up."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a block towards a stage."""
        start = time.monotonic()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start

    def seconds(self) -> dict[str, float]:
        """Return the rounded seconds by stage."""
        return {stage: round(value, 2) for stage, value in self._seconds.items()}
