"""Forms that engines ask for: 16-bit activations, zero points of 0, norms written out, order."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from tinyclip_export.onnx_passes.plain_norm import write_out_norms
from tinyclip_export.quantization.fp16 import halve
from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.static_int8 import StaticRecipe, measure_ranges
from tinyclip_export.quantization.wide_activations import WideRecipe

WEIGHT = np.array([[0.5, -1.0], [1.5, 0.25], [-0.75, 1.0]], np.float32)
BIAS = np.array([0.125, -0.25], np.float32)
ROWS = np.array([[[1.0, -2.0, 0.5]], [[-1.0, 3.0, 2.0]]], np.float32)


def layer():
    """A product with a bias, and the unit norm of the result."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "layer"),
        helper.make_node("Add", ["product", "b"], ["sum"], "bias"),
        helper.make_node("ReduceL2", ["sum", "axes"], ["norm"], "norm", keepdims=1),
        helper.make_node("Div", ["sum", "norm"], ["y"], "unit"),
    ]
    constants = {"w": WEIGHT, "b": BIAS, "axes": np.array([-1], np.int64)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def unit_rows():
    raw = ROWS @ WEIGHT + BIAS
    return raw / np.linalg.norm(raw, axis=-1, keepdims=True)


def answers(model):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": row[None]})[0] for row in ROWS])


def quantized(recipe, tmp_path):
    source, target = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save_model(layer(), str(source))
    ranges = measure_ranges(
        source, tmp_path, lambda: ({"x": row[None]} for row in ROWS), recipe.measured(source)
    )
    recipe.write(QuantizeJob("image", source, target, ranges=ranges))
    return onnx.load(str(target))


def constants_of(model):
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def test_activations_have_16_bits_and_weights_8_with_one_scale(tmp_path):
    model = quantized(WideRecipe(), tmp_path)
    stored = constants_of(model)
    # From -1.0 to 1.5 in 255 steps, from -2 to 3 in 65,535.
    assert stored["w_scale"] == pytest.approx(2.5 / 255)
    assert stored["w_quantized"].dtype == np.uint8
    assert stored["x_scale"] == pytest.approx(5 / 65535)
    assert stored["x_zero_point"].dtype == np.uint16
    # The output's range is that of a unit vector, whatever was measured.
    assert stored["y_scale"] == pytest.approx(2 / 65535)
    assert np.abs(answers(model) - unit_rows()).max() < 0.01  # half a step of the weights
    floats = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert {"x", "sum"} <= {name.split("_")[0] for name in floats}


def test_symmetric_static_has_no_zero_points_and_float_biases(tmp_path):
    model = quantized(
        StaticRecipe(weight_range="8 bit", token_table="float", symmetric=True), tmp_path
    )
    stored = constants_of(model)
    points = [value for name, value in stored.items() if name.endswith("zero_point")]
    assert points and not any(np.any(value) for value in points)
    assert stored["x_scale"] == pytest.approx(3 / 127)  # the larger side, 3, in 127 steps
    assert stored["b"].dtype == np.float32
    assert not any(value.dtype == np.int32 for value in stored.values())
    assert np.abs(answers(model) - unit_rows()).max() < 0.02


def test_a_norm_written_out_is_the_norm(tmp_path):
    model = layer()
    before = answers(model)
    write_out_norms(model)
    assert [node.op_type for node in model.graph.node] == [
        "MatMul", "Add", "Mul", "ReduceSum", "Sqrt", "Div"
    ]  # fmt: skip
    assert np.abs(answers(model) - before).max() < 1e-6


def test_squares_of_a_norm_stay_in_float32():
    model = layer()
    write_out_norms(model)
    large = halve(model)
    checker.check_model(large)  # nodes in order, too
    session = ort.InferenceSession(large.SerializeToString(), providers=["CPUExecutionProvider"])
    value = session.run(None, {"x": np.full((1, 1, 3), 400, np.float32)})[0]
    assert np.linalg.norm(value) == pytest.approx(1.0, abs=2e-3)  # 500² is above 65,504


def test_float16_files_are_in_onnx_order():
    checker.check_model(halve(layer()))
