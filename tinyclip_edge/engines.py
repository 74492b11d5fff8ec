"""The table of engines, other than onnxruntime, in whose own formats an export can write towers.

The table has no code: ``tinyclip_export.engines`` has a writer for each name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyclip_edge.precisions import PRECISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An inference engine with a file format of its own."""

    packages: Mapping[str, str]  # to write files: module to import -> package that brings it
    runs_with: Mapping[str, str]  # to run them, likewise
    extra: str  # of tinyclip-edge
    suffix: str  # of its files
    precisions: tuple[str, ...]  # that its writer makes, by the names of ours
    fixed: bool  # whether batch and length of texts are fixed in its files


ENGINES: Mapping[str, Engine] = {
    "openvino": Engine(
        packages={"openvino": "openvino", "nncf": "nncf"},
        runs_with={"openvino": "openvino"},
        extra="openvino",
        suffix=".xml",
        precisions=("fp32", "fp16", "int8"),
        fixed=False,
    ),
    "litert": Engine(
        packages={"litert_torch": "litert-torch"},
        runs_with={"ai_edge_litert": "ai-edge-litert"},
        extra="litert",
        suffix=".tflite",
        precisions=("fp32", "int8"),
        fixed=True,
    ),
    "executorch": Engine(
        packages={"executorch": "executorch"},
        runs_with={"executorch": "executorch", "torch": "torch"},
        extra="executorch",
        suffix=".pte",
        # Its XNNPACK partitioner stops at a dynamic int8 form of our towers: "found dependency
        # cycles", in the last block, whose only query is one token.
        precisions=("fp32",),
        fixed=True,
    ),
}


def engine_file(name: str, stem: str, precision: str) -> str:
    """Return the path inside a bundle of a tower's file."""
    return f"{name}/{stem}{PRECISIONS[precision].suffix}{ENGINES[name].suffix}"
