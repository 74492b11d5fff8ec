"""The table of engines other than onnxruntime that an export can write towers for.

The table has no code: ``tinyclip_export.engines`` has a writer for each name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyclip_edge.precisions import PRECISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An inference engine with a file format of its own."""

    packages: Mapping[str, str]  # to write files: module to import -> package that provides it
    runs_with: Mapping[str, str]  # to run them, likewise
    extra: str  # of tinyclip-edge
    suffix: str  # of its files
    precisions: tuple[str, ...]  # that its writer makes, by our names for them
    fixed: bool  # whether its files fix the batch size and the length of texts


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
        # Its XNNPACK partitioner fails on dynamic int8 towers ("found dependency cycles") in their
        # last block, where a single token is the only query.
        precisions=("fp32",),
        fixed=True,
    ),
}


def engine_file(name: str, stem: str, precision: str) -> str:
    """Return the path of a tower's file inside a bundle."""
    return f"{name}/{stem}{PRECISIONS[precision].suffix}{ENGINES[name].suffix}"
