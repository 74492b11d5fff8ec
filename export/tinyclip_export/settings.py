"""How the precisions of an export are made, improved and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.runtime.protocol import ImageInput
from tinyclip_export.bundle.extras import NO_EXTRAS, Extras


@dataclass(frozen=True, slots=True)
class CalibrationPairs:
    """Pairs that ranges are measured and layers are ranked on."""

    name: str  # of the set, for the manifest
    images: Sequence[ImageInput]
    texts: Sequence[str]
    apart: bool  # whether none of them is verified on


Supplier: TypeAlias = Callable[[], CalibrationPairs]


def _silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What is asked of an export beyond its precisions."""

    preset: ExportPreset = field(default_factory=ExportPreset)
    extras: Extras = NO_EXTRAS
    search: bool | None = None  # smooth and rank layers always, never, or where a gate fails
    require_faster: bool = False  # refuse a precision that is slower here than fp32
    calibration: Supplier | None = None  # called when needed; None: the pairs verified on
    tell: Callable[[str], None] = _silent  # progress of what takes minutes


DEFAULT = ExportSettings()
