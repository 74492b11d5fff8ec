"""Static int8 of convolutions in a row: nothing is rounded twice between two of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.static_int8 import StaticRecipe

RANDOM = np.random.default_rng(5)
WEIGHTS = {name: RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32) for name in "abc"}
FEEDS = [{"x": RANDOM.standard_normal((1, 8, 6, 6)).astype(np.float32)} for _ in range(16)]


def chain(path):
    """Three convolutions with a Relu between them; the second Relu is read twice."""
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["one"], "first", **conv),
        helper.make_node("Relu", ["one"], ["plus"]),
        helper.make_node("Conv", ["plus", "b"], ["two"], "second", **conv),
        helper.make_node("Relu", ["two"], ["kept"]),
        helper.make_node("Conv", ["kept", "c"], ["three"], "third", **conv),
        helper.make_node("Add", ["three", "kept"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 6, 6])],
        [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save_model(model, str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    chain(folder / "fp32.onnx")
    job = QuantizeJob("image", folder / "fp32.onnx", folder / "int8.onnx", feeds=lambda: FEEDS)
    StaticRecipe().write(job)
    return folder


def test_only_a_relu_that_one_convolution_reads_takes_the_sum(folder):
    graph = onnx.load(folder / "int8.onnx").graph
    producer = {name: node for node in graph.node for name in node.output}
    relus = [node for node in graph.node if node.op_type == "Relu"]
    assert [producer[node.input[0]].op_type for node in relus] == ["Conv", "DequantizeLinear"]


def test_onnxruntime_runs_every_convolution_in_integers_without_a_detour(folder):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "as-run.onnx")
    onnxruntime.InferenceSession(str(folder / "int8.onnx"), options)
    nodes = onnx.load(folder / "as-run.onnx").graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds.count("QLinearConv") == 3 and "Conv" not in kinds
    first, second = [node for node in nodes if node.op_type == "QLinearConv"][:2]
    assert second.input[0] == first.output[0]


def test_embeddings_stay_near(folder):
    fp32, int8 = (
        onnxruntime.InferenceSession(str(folder / f"{name}.onnx")).run(None, FEEDS[0])[0].ravel()
        for name in ("fp32", "int8")
    )
    assert fp32 @ int8 / np.linalg.norm(fp32) / np.linalg.norm(int8) > 0.999
