"""Second moments of the inputs of products, and a tower that is rounded by them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tinyclip_edge.errors import ModelError
from tinyclip_export.quantization import input_moments as module
from tinyclip_export.quantization.input_moments import input_moments
from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.weight_only import WeightOnlyRecipe

RNG = np.random.default_rng(0)
WEIGHTS = {
    "first": RNG.standard_normal((40, 64)),
    "second": RNG.standard_normal((40, 64)),
    "last": RNG.standard_normal((64, 32)),
}
MIX = RNG.standard_normal((5, 40))
PIXELS = [(RNG.standard_normal((1, 3, 5)) @ MIX).astype(np.float32) for _ in range(64)]


@pytest.fixture
def source(tmp_path):
    """Two products of one input, added; a Relu and a third product."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], "one"),
        helper.make_node("MatMul", ["x", "second"], ["b"], "two"),
        helper.make_node("Add", ["a", "b"], ["sum"], "add"),
        helper.make_node("Relu", ["sum"], ["hidden"], "relu"),
        helper.make_node("MatMul", ["hidden", "last"], ["y"], "three"),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 32])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in WEIGHTS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "source.onnx")
    return tmp_path / "source.onnx"


def feeds():
    return ({"x": pixels} for pixels in PIXELS)


def hidden(x):
    return np.maximum(x @ (WEIGHTS["first"] + WEIGHTS["second"]), 0.0)


def outputs(path):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in feeds()])


@pytest.mark.parametrize("memory", [module.MEMORY, 1])
def test_moments_are_those_of_numpy(source, monkeypatch, memory):
    monkeypatch.setattr(module, "MEMORY", memory)  # with one byte, each group has its own run
    measured = {tuple(names): moments for names, moments in input_moments(source, feeds)}
    rows = np.concatenate(PIXELS).reshape(-1, 40).astype(np.float64)
    np.testing.assert_allclose(measured["first", "second"], rows.T @ rows, rtol=1e-4)
    later = hidden(rows)
    np.testing.assert_allclose(measured[("last",)], later.T @ later, rtol=1e-4)
    assert len(measured) == 2


def test_no_more_inputs_are_read_than_are_needed(source, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 1)  # 64 rows for the widest input: 22 of 3 rows
    read = []
    list(input_moments(source, lambda: (read.append(0) or feed for feed in feeds())))
    assert len(read) == 23  # the one at which it stops included


def test_activations_that_are_not_finite_are_refused(source):
    broken = [{"x": np.full((1, 3, 40), np.inf, np.float32)}]
    with pytest.raises(ModelError, match="x is not finite on the calibration pairs"):
        list(input_moments(source, lambda: broken))


def test_a_tower_that_is_rounded_by_them_answers_better(source, tmp_path):
    recipe = WeightOnlyRecipe(token_table="float")
    rounded = recipe.round_weights(source, feeds, None)
    files = {}
    for name, how in (("nearest", None), ("gptq", rounded)):
        files[name] = tmp_path / f"{name}.onnx"
        keep = frozenset({"two"})
        recipe.write(QuantizeJob("image", source, files[name], keep_float=keep, rounded=how))
    assert files["gptq"].stat().st_size == files["nearest"].stat().st_size
    names = [node.op_type for node in onnx.load(files["gptq"]).graph.node]
    assert names.count("MatMulNBits") == 2  # of three, one of which stays float
    expected = outputs(source)
    errors = {name: np.square(outputs(path) - expected).mean() for name, path in files.items()}
    assert errors["gptq"] < 0.5 * errors["nearest"]


def test_a_weight_in_the_file_is_the_rounded_one(source, tmp_path):
    """The bytes are unpacked by hand: the low half first, 8 for zero, a scale per block."""
    recipe = WeightOnlyRecipe(token_table="float")
    rounded = recipe.round_weights(source, feeds, None)
    recipe.write(QuantizeJob("image", source, tmp_path / "q4.onnx", rounded=rounded))
    graph = onnx.load(tmp_path / "q4.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    node = next(node for node in graph.node if node.output[0] == "a")
    packed, scales = tensors[node.input[1]], tensors[node.input[2]].reshape(64, 2)
    halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(64, 2, 32).astype(int) - 8
    weight = (halves * scales[..., None]).reshape(64, 64).T[:40]
    np.testing.assert_allclose(weight, rounded.weights["first"].dequantized(), rtol=1e-6)
