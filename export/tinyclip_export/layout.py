"""The fixed names of a bundle: inputs, outputs, axes and files of its towers. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy.typing as npt

from tinyclip_edge.precisions import PRECISIONS

MIN_TOKENS = 2  # start and end of text
Feed: TypeAlias = "dict[str, npt.NDArray[Any]]"  # inputs of a session by name
Feeds: TypeAlias = Callable[[], Iterable[Feed]]  # a new pass over the inputs at each call


@dataclass(frozen=True, slots=True)
class TowerIO:
    """Input, output, dynamic axes and file stem of one tower."""

    input_name: str
    output_name: str
    dynamic_axes: dict[int, str]
    stem: str

    def path(self, precision: str) -> str:
        """Return the file's path inside a bundle."""
        return f"onnx/{self.stem}{PRECISIONS[precision].suffix}.onnx"


IMAGE_IO = TowerIO("pixel_values", "image_embeds", {0: "batch"}, "vision_model")
TEXT_IO = TowerIO("input_ids", "text_embeds", {0: "batch", 1: "sequence"}, "text_model")
TOWER_IO = {"image": IMAGE_IO, "text": TEXT_IO}


@dataclass(frozen=True, slots=True)
class InputForm:
    """The form of the towers' inputs."""

    batch: int | None = None  # a fixed size, for accelerators that require it; None for any
    padded: bool = False  # whether texts are padded to the context length
    pad_id: int = 0  # padding token
    ids: str = "int64"  # type of token ids, or "int32"
    plain: bool = False  # only operators that all engines have; no part of the manifest's form

    def io(self, tower: str) -> TowerIO:
        """Return names and dynamic axes of one tower."""
        io = TOWER_IO[tower]
        fixed = {0} if self.batch else set()
        fixed |= {1} if self.padded and tower == "text" else set()
        free = {axis: name for axis, name in io.dynamic_axes.items() if axis not in fixed}
        return replace(io, dynamic_axes=free)

    @property
    def padding(self) -> str:
        """The manifest's word for the padding."""
        return "max_length" if self.padded else "none"

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {
            "batch": self.batch,
            "padding": self.padding,
            "pad_id": self.pad_id,
            "ids": self.ids,
        }


ANY_INPUT = InputForm()
