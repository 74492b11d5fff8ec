"""The interface of a writer of engine files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy.typing as npt

from tinyclip_edge.runtime.protocol import Features

if TYPE_CHECKING:
    from torch import Tensor, nn

Encode: TypeAlias = "Callable[[npt.NDArray[Any]], Features]"


@dataclass(frozen=True, slots=True)
class EngineTower:
    """One tower to write."""

    input_name: str
    output_name: str
    module: nn.Module
    source: Path  # the fp32 ONNX file
    example: Tensor  # one input, of the fixed shape
    scratch: Path  # temporary files
    calibration: Callable[[], Iterable[npt.NDArray[Any]]]  # inputs, one at a time


class EngineWriter(Protocol):
    """Writes a tower for one engine, and runs what it wrote."""

    def version(self) -> str:
        """Return the installed version of the engine."""

    def write(self, tower: EngineTower, targets: Mapping[str, Path]) -> None:
        """Write a tower in each precision; the engine's exceptions pass through."""

    def open(self, path: Path, threads: int) -> Encode:
        """Load a file; return a function that encodes a batch. The engine's exceptions pass."""
