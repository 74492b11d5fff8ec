"""What the quantizer did, read from the files."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tinyclip_edge.errors import ConfigError
from tinyclip_export.quantization.dynamic_int8 import PORTABLE, Int8Recipe, quantize_tower
from tinyclip_export.quantization.overflow_safe import make_pair_safe, pair_safe
from tinyclip_export.quantization.recipe import QuantizeJob

TOWERS = {"image": "vision_model", "text": "text_model"}
LAYERS = {"image": 4, "text": 3}


def graph_of(exported, tower, suffix="_quantized"):
    return onnx.load(exported.folder / "onnx" / f"{TOWERS[tower]}{suffix}.onnx").graph


@pytest.mark.parametrize("tower", TOWERS)
def test_every_linear_is_integer_and_attention_products_stay_float(exported, tower):
    before = Counter(node.op_type for node in graph_of(exported, tower, "").node)
    after = Counter(node.op_type for node in graph_of(exported, tower).node)
    layers = LAYERS[tower]
    # a layer: q, k, v, out, up, down; then the projection, before them an image's patches
    assert after["MatMulInteger"] == 6 * layers + 1 + (tower == "image")
    # q by k and attention by v
    assert after["MatMul"] == 2 * layers
    assert after["ConvInteger"] == 0
    assert before["Conv"] == 0  # patches are a product too
    for kind in ("LayerNormalization", "Softmax", "Gelu"):
        assert after[kind] == before[kind]


def test_token_table_is_one_byte_a_value(exported):
    graph = graph_of(exported, "text")
    tables = {t.name: t for t in graph.initializer}
    gathered = [
        tables[n.input[0]] for n in graph.node if n.op_type == "Gather" if n.input[0] in tables
    ]
    vocabulary = tuple(exported.clip.model.token_embedding.weight.shape)
    (table,) = (t for t in gathered if tuple(t.dims) == vocabulary)
    assert table.data_type in (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)


@pytest.mark.parametrize("tower", TOWERS)
def test_weights_fit_the_16_bit_sums_of_cpus_without_vnni(exported, tower):
    graph = graph_of(exported, tower)
    tables = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            weight = numpy_helper.to_array(tables[node.input[1]]).astype(np.int64)
            # x86 without VNNI adds two neighbouring products of up to 255 in 16 bits
            for part in (np.maximum(weight, 0), np.maximum(-weight, 0)):
                assert 255 * (part[0::2] + part[1::2]).max() <= 32767
            assert np.abs(weight).max() > 64  # finer than seven bits
            # per channel: one scale a column
            scale = tables[node.input[1].replace("_quantized", "_scale")]
            assert tuple(scale.dims) == (weight.shape[1],)


def test_files_are_a_quarter_and_a_bit(exported):
    report = exported.report
    assert report.tower_bytes("int8") < 0.35 * report.tower_bytes("fp32")


def test_recipe_switches_reach_the_file(exported, tmp_path):
    source = exported.folder / "onnx" / "text_model.onnx"
    target = tmp_path / "text.onnx"
    recipe = Int8Recipe(weights="uint8", weight_range="8 bit", token_table="float")
    quantize_tower(source, target, recipe, text=True)
    graph = onnx.load(target).graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    weights = {kinds[n.input[1]] for n in graph.node if n.op_type == "MatMulInteger"}
    assert weights == {onnx.TensorProto.UINT8}
    size = list(exported.clip.model.token_embedding.weight.shape)
    tables = [t.data_type for t in graph.initializer if list(t.dims) == size]
    assert tables == [onnx.TensorProto.FLOAT]
    assert [path.name for path in tmp_path.iterdir()] == ["text.onnx"]


def test_pair_safe_weights_by_hand():
    # column 0: the pair 1 + 1 decides, 127 for both together; column 1: its neighbours cancel
    weight = np.array([[1.0, 1.0], [1.0, -1.0], [-0.5, 0.0]], dtype=np.float32)
    integer, scale = pair_safe(weight)
    assert scale == pytest.approx([2 / 127, 1 / 127])
    assert integer.tolist() == [[64, 127], [64, -127], [-32, 0]]


def test_pair_safe_weights_are_finer_than_seven_bits_and_never_overflow():
    random = np.random.default_rng(0)
    weight = random.standard_normal((255, 64)).astype(np.float32)
    integer, scale = pair_safe(weight)
    wide = np.vstack([integer, np.zeros((1, 64))]).astype(np.int64)
    for part in (np.maximum(wide, 0), np.maximum(-wide, 0)):
        assert 255 * (part[0::2] + part[1::2]).max() <= 32767
    error = np.square(weight - integer * scale).mean()
    seven = np.abs(weight).max(axis=0) / 63.5
    assert error < 0.75 * np.square(weight - np.round(weight / seven) * seven).mean()


def test_an_empty_column_stays_empty():
    integer, scale = pair_safe(np.zeros((4, 2), dtype=np.float32))
    assert not integer.any()
    assert np.isfinite(scale).all()


def gemm_of(weight, **attributes):
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="head", **attributes)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("outputs", [3, 5])
@pytest.mark.parametrize("name", ["w", "w_Transposed"])
def test_the_weight_of_a_gemm_is_transposed_whatever_the_quantizer_calls_it(name, outputs):
    """onnxruntime renames it since 1.32."""
    weight = np.random.default_rng(0).standard_normal((outputs, 5)).astype(np.float32)
    node = helper.make_node("MatMulInteger", ["a", f"{name}_quantized"], ["y"])
    tensors = [
        numpy_helper.from_array(np.zeros((5, outputs), np.int8), f"{name}_quantized"),
        numpy_helper.from_array(np.ones(outputs, np.float32), f"{name}_scale"),
    ]
    quantized = helper.make_model(helper.make_graph([node], "g", [], [], tensors))
    make_pair_safe(quantized, gemm_of(weight, transB=1))
    written = [numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer]
    for actual, expected in zip(written, pair_safe(weight.T), strict=True):
        assert actual.tolist() == expected.tolist()


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_in_int8_is_close_to_the_float_one(transposed, tmp_path):
    import onnxruntime as ort

    random = np.random.default_rng(1)
    weight = random.standard_normal((16, 16)).astype(np.float32)  # square: no shape tells
    onnx.save_model(gemm_of(weight, transB=transposed), tmp_path / "fp32.onnx")
    quantize_tower(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", PORTABLE, text=False)
    x = random.standard_normal((4, 16)).astype(np.float32)
    (actual,) = ort.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": x})
    expected = x @ (weight.T if transposed else weight)
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


def test_a_gemm_is_kept_in_float(tmp_path):
    onnx.save_model(gemm_of(np.ones((4, 4), np.float32), transB=1), tmp_path / "fp32.onnx")
    target = tmp_path / "int8.onnx"
    quantize_tower(tmp_path / "fp32.onnx", target, PORTABLE, text=False, keep_float=["head"])
    assert [node.op_type for node in onnx.load(target).graph.node] == ["MatMul"]


def test_integer_products_are_exact_on_this_cpu_at_the_limit(tmp_path):
    # The worst case: every activation 255, every pair at its limit. onnxruntime against numpy.
    import onnxruntime as ort

    weight, _ = pair_safe(np.ones((64, 8), dtype=np.float32))
    assert weight.max() == 64
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    a = helper.make_tensor_value_info("a", TensorProto.UINT8, [None, 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [None, 8])
    graph = helper.make_graph([node], "g", [a], [y], [numpy_helper.from_array(weight, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    full = np.full((3, 64), 255, dtype=np.uint8)
    products = ort.InferenceSession(model.SerializeToString()).run(None, {"a": full})[0]
    assert products.tolist() == (full.astype(np.int64) @ weight.astype(np.int64)).tolist()


def test_recipes_that_contradict_are_refused():
    with pytest.raises(ConfigError, match="needs weights 'int8'"):
        Int8Recipe(weights="uint8")
    with pytest.raises(ConfigError, match="did you mean '7 bit'"):
        Int8Recipe(weight_range="7bit")
    assert Int8Recipe(weight_range="8 bit").as_dict()["reduce_range"] is False
    assert Int8Recipe().as_dict()["reduce_range"] is True


@pytest.mark.parametrize("tower", TOWERS)
def test_what_becomes_integer_is_named_after_its_module(exported, tower):
    from torch import nn

    from tinyclip_export.quantization.dynamic_int8 import layers_with_weights
    from tinyclip_export.towers.blocks import Projection
    from tinyclip_export.towers.factory import image_tower, text_tower

    module = (image_tower if tower == "image" else text_tower)(exported.clip.model)
    linear = [
        name for name, part in module.named_modules() if isinstance(part, nn.Linear | Projection)
    ]
    source = exported.folder / "onnx" / f"{TOWERS[tower]}.onnx"
    assert sorted(layers_with_weights(source, PORTABLE.operators)) == sorted(linear)
    integer = [n for n in graph_of(exported, tower).node if n.op_type == "MatMulInteger"]
    assert len(integer) == len(linear)


def test_a_layer_may_stay_float(exported, tmp_path):
    source = exported.folder / "onnx" / "text_model.onnx"
    job = QuantizeJob(
        "text", source, tmp_path / "t.onnx", keep_float=frozenset({"body.0.up", "projection"})
    )
    PORTABLE.write(job)
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "t.onnx").graph.node)
    assert operators["MatMulInteger"] == 6 * LAYERS["text"] + 1 - 2


def test_quantizer_says_nothing_on_the_terminal(exported, tmp_path, capfd):
    source = exported.folder / "onnx" / "vision_model.onnx"
    quantize_tower(source, tmp_path / "v.onnx", PORTABLE, text=False)
    assert capfd.readouterr() == ("", "")
