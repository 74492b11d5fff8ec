"""Settings of an export: presets, optional files, searches, gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.runtime.label_calibration import HeldOut
from tinyclip_edge.runtime.protocol import ImageInput


@dataclass(frozen=True, slots=True)
class Extras:
    """Optional files of a bundle, and reports for its manifest."""

    labels: tuple[str, ...] = ()  # classes of a classifier without a text tower
    templates: tuple[str, ...] = ("{}",)  # prompts for each label
    embed_preprocessing: bool = False  # adds image towers for uint8 pictures of any size
    embed_tokenizer: bool = False  # text towers for strings; with the above, encoded pictures
    standalone: bool = False  # gives the pipeline file its own weights
    layouts: tuple[str, ...] = ()  # of other applications, in the default precision
    vocabulary: dict[str, Any] | None = None  # report of trim_vocabulary
    qat_report: dict[str, Any] | None = None  # report of quantization-aware training
    native: bool = False  # adds files of the target's own engine
    soc_model: int = 60  # Qualcomm's number of their chip; 60 is the Snapdragon X Elite
    static_batch: int | None = None  # fixed batch size of all towers, with padded texts

    @property
    def prompts(self) -> list[str]:
        """All prompts of the classifier's labels."""
        return [
            template.replace("{}", label) for label in self.labels for template in self.templates
        ]


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class CalibrationPairs:
    """Pairs for measuring activation ranges and ranking layers."""

    name: str  # of the set, for the manifest
    images: Sequence[ImageInput]
    texts: Sequence[str]
    disjoint: bool  # whether they share no pair with the verification


PairSupplier: TypeAlias = Callable[[], CalibrationPairs]


def _silent(_: str) -> None:
    """Ignore a message."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Settings of an export other than its precisions."""

    preset: ExportPreset = field(default_factory=ExportPreset)
    extras: Extras = NO_EXTRAS
    search: bool | None = None  # for layers to leave in float; None: if a gate fails
    require_faster: bool = False  # refuse a precision that is slower than fp32 here
    calibration: PairSupplier | None = None  # called on demand; None for the verification pairs
    # Training pictures, if the verification pictures are like them; called on demand.
    training: Callable[[], Sequence[ImageInput]] | None = None
    held_out: HeldOut | None = None  # for calibrating the threshold of "unknown"
    notify: Callable[[str], None] = _silent  # receives progress messages of long stages


DEFAULT = ExportSettings()
