"""What the engine of each target takes: operators, element types, shapes.

A target without an entry runs in onnxruntime's own kernels, which take all that an export writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRules:
    """What an engine takes of a file; everything else would run elsewhere, or not at all."""

    operators: Mapping[str, frozenset[str]]  # domain ("" is ONNX's own) -> names
    source: str  # where the engine's makers list them
    types: frozenset[str]  # of elements, by their names in onnx.TensorProto
    opsets: tuple[int, int]  # least and greatest of ONNX's own domain
    rank: int  # the greatest of any value
    static: bool = True  # every shape has to be known
    symmetric: bool = False  # zero points are 0, scales are constants


RULES: Mapping[str, EngineRules] = {}
