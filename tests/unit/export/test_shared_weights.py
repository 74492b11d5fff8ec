"""Constants that several nodes share, in the int8 forms with 8-bit weights."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tinyclip_edge.runtime.session import session_options
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe
from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.static_int8 import StaticRecipe

RANDOM = np.random.default_rng(8)
WEIGHT = (RANDOM.standard_normal((16, 16)) / 4).astype(np.float32)
VALUES = RANDOM.standard_normal((4, 16)).astype(np.float32)


@pytest.fixture
def source(tmp_path):
    """A layer that is applied twice: ``relu(x @ W) @ W``."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["values", "W"], ["first"], "first_layer"),
            helper.make_node("Relu", ["first"], ["positive"], "relu"),
            helper.make_node("MatMul", ["positive", "W"], ["out"], "second_layer"),
        ],
        "twice",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [None, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, 16])],
        [numpy_helper.from_array(WEIGHT, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(model, str(tmp_path / "fp32.onnx"))
    return tmp_path / "fp32.onnx"


@pytest.mark.parametrize("recipe", [StaticRecipe, Int8Recipe])
def test_a_shared_weight_opens_where_products_are_u8_x_u8(source, recipe):
    """On x86 without VNNI, onnxruntime converts each weight; it refused a shared one."""
    target = source.with_name("int8.onnx")
    feeds = [{"values": VALUES}]
    recipe(weight_range="8 bit").write(QuantizeJob("image", source, target, feeds=lambda: feeds))
    weights = [t for t in onnx.load(target).graph.initializer if list(t.dims) == [16, 16]]
    assert [tensor.data_type for tensor in weights] == [TensorProto.INT8] * 2
    session = onnxruntime.InferenceSession(str(target), session_options(precise_int8=True))
    (out,) = session.run(None, feeds[0])
    np.testing.assert_allclose(out, np.maximum(VALUES @ WEIGHT, 0) @ WEIGHT, atol=0.1)


@pytest.mark.parametrize("recipe", [StaticRecipe, Int8Recipe])
def test_a_product_that_selects_a_row_of_a_mask_stays_float(tmp_path, recipe):
    """An int8 mask was rounded in the sums as well, and did not open where weights are u8."""
    mask = np.triu(np.full((16, 16), -60, np.float32), 1)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["values", "W"], ["scores"], "layer"),
            helper.make_node("Add", ["scores", "mask"], ["masked"], "hide"),
            helper.make_node("MatMul", ["masked", "mask"], ["row"], "select"),
            helper.make_node("Add", ["row", "mask"], ["out"], "hide_again"),
        ],
        "mask",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [16, 16])],
        [numpy_helper.from_array(WEIGHT, "W"), numpy_helper.from_array(mask, "mask")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    source, target = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    onnx.save_model(model, str(source))
    values = RANDOM.standard_normal((16, 16)).astype(np.float32)
    feeds = [{"values": values}]
    recipe(weight_range="8 bit").write(QuantizeJob("image", source, target, feeds=lambda: feeds))
    constants = {t.name: t for t in onnx.load(target).graph.initializer if list(t.dims) == [16, 16]}
    assert np.array_equal(numpy_helper.to_array(constants.pop("mask")), mask)
    assert [tensor.data_type for tensor in constants.values()] == [TensorProto.INT8]
    session = onnxruntime.InferenceSession(str(target), session_options(precise_int8=True))
    (out,) = session.run(None, feeds[0])
    expected = (values @ WEIGHT + mask) @ mask + mask
    np.testing.assert_allclose(out, expected, rtol=0.01, atol=0.02 * np.abs(expected).max())
