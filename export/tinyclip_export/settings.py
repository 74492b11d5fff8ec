"""How the precisions of an export are made, improved and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.runtime.protocol import ImageInput


@dataclass(frozen=True, slots=True)
class Extras:
    """Requests beyond the two towers."""

    labels: tuple[str, ...] = ()  # classes of a classifier without a text tower
    templates: tuple[str, ...] = ("{}",)  # prompts that each label is put into
    embed_preprocessing: bool = False  # an image tower that takes uint8 of any size
    standalone: bool = False  # the pipeline's file with weights of its own
    vocabulary: dict[str, Any] | None = None  # what trim_vocabulary reports
    qat_report: dict[str, Any] | None = None  # what a finish with rounded towers reports
    static_batch: int | None = None  # rows that all towers then take, texts of full length

    @property
    def prompts(self) -> list[str]:
        """Texts that the classifier's labels stand for."""
        return [
            template.replace("{}", label) for label in self.labels for template in self.templates
        ]


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class CalibrationPairs:
    """Pairs that ranges are measured and layers are ranked on."""

    name: str  # of the set, for the manifest
    images: Sequence[ImageInput]
    texts: Sequence[str]
    disjoint: bool  # whether none of them is verified on


PairSupplier: TypeAlias = Callable[[], CalibrationPairs]


def _silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What is asked of an export beyond its precisions."""

    preset: ExportPreset = field(default_factory=ExportPreset)
    extras: Extras = NO_EXTRAS
    search: bool | None = None  # smooth and rank layers always, never, or where a gate fails
    require_faster: bool = False  # refuse a precision that is slower here than fp32
    calibration: PairSupplier | None = None  # called when needed; None: the pairs verified on
    notify: Callable[[str], None] = _silent  # progress of what takes minutes


DEFAULT = ExportSettings()
