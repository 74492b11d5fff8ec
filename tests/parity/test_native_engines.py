"""Qualcomm's compiler and coremltools take the towers of their targets whole.

`make devices` runs it in an environment that has onnxruntime-qnn and coremltools. Neither computes
on this kind of machine: what is tested is that they accept every node, and what they write.
"""

from __future__ import annotations

import onnx
import pytest

from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_export.settings import Extras
from toy_export import export_for_target

pytestmark = pytest.mark.provider


def bundle(target, toy_teacher_folder, folder):
    export_for_target(target, toy_teacher_folder, folder, Extras(native=True))
    return Manifest.read(folder).extras["native"]["files"]


def test_qualcomms_compiler_takes_both_towers_whole(toy_teacher_folder, tmp_path):
    for path in bundle("qnn", toy_teacher_folder, tmp_path / "qnn").values():
        graph = onnx.load(str(tmp_path / "qnn" / path)).graph
        # One node has the binary: nothing is left to the processor.
        assert [node.op_type for node in graph.node] == ["EPContext"]
        assert len(graph.input) == len(graph.output) == 1


def test_coremltools_converts_both_towers(toy_teacher_folder, tmp_path):
    import coremltools

    folder = tmp_path / "coreml"
    for tower, path in bundle("coreml", toy_teacher_folder, folder).items():
        spec = coremltools.utils.load_spec(str(folder / path))
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        kinds = {operation.type for operation in block.operations}
        assert {"linear", "layer_norm", "softmax"} <= kinds
        assert ("gather" in kinds) == (tower == "text")  # the token table
        weights = (folder / path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
        onnx_bytes = sum(
            each.stat().st_size
            for each in (folder / "onnx").glob("text*" if tower == "text" else "vision*")
        )
        assert weights == pytest.approx(onnx_bytes, rel=0.35)  # both are float16
