"""Names that a bundle fixes: tower inputs, outputs, axes and files; no torch behind this module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tinyclip_edge.errors import ConfigError, did_you_mean

MIN_TOKENS = 2  # start and end of text
# What follows a file's stem. transformers.js knows all but _static and _w8, by its own names of
# dtypes: _quantized is its q8.
SUFFIX = {
    "fp32": "",
    "fp16": "_fp16",
    "int8": "_quantized",
    "uint8": "_uint8",
    "static": "_static",
    "w8": "_w8",
    "q4": "_q4",
    "q4f16": "_q4f16",
    "bnb4": "_bnb4",
}
ALIASES = {"q8": "int8", "int4": "q4"}


@dataclass(frozen=True, slots=True)
class TowerIO:
    """Input, output, free axes and file stem of one tower."""

    input_name: str
    output_name: str
    dynamic_axes: dict[int, str]
    stem: str

    def path(self, precision: str) -> str:
        """Return the file's path inside a bundle."""
        return f"onnx/{self.stem}{SUFFIX[precision]}.onnx"


IMAGE_IO = TowerIO("pixel_values", "image_embeds", {0: "batch"}, "vision_model")
TEXT_IO = TowerIO("input_ids", "text_embeds", {0: "batch", 1: "sequence"}, "text_model")
TOWER_IO = {"image": IMAGE_IO, "text": TEXT_IO}


@dataclass(frozen=True, slots=True)
class InputForm:
    """What the towers of a bundle take."""

    batch: int | None = None  # fixed, for accelerators that need it; None for any
    padded: bool = False  # texts fill the whole context
    pad_id: int = 0  # token behind a text where they do

    def io(self, tower: str) -> TowerIO:
        """Return the names of one tower and the axes that are free."""
        io = TOWER_IO[tower]
        fixed = {0} if self.batch else set()
        fixed |= {1} if self.padded and tower == "text" else set()
        free = {axis: name for axis, name in io.dynamic_axes.items() if axis not in fixed}
        return replace(io, dynamic_axes=free)

    @property
    def padding(self) -> str:
        """The manifest's word for it."""
        return "max_length" if self.padded else "none"

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {"batch": self.batch, "padding": self.padding, "pad_id": self.pad_id}


ANY_INPUT = InputForm()


def check_precisions(precisions: Iterable[str]) -> tuple[str, ...]:
    """Return the precisions without repeats; raise ConfigError for an unknown one or none."""
    wanted = tuple(dict.fromkeys(ALIASES.get(name, name) for name in precisions))
    if not wanted:
        raise ConfigError(f"no precision to export; known: {', '.join(SUFFIX)}")
    for precision in wanted:
        if precision not in SUFFIX:
            raise ConfigError(
                f"precision '{precision}' is unknown{did_you_mean(precision, [*SUFFIX, *ALIASES])}"
            )
    return wanted
