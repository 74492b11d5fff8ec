"""A feed-forward layer in two halves says what the whole one said."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tinyclip_export.onnx_passes.split_ffn import MAX_BYTES, MIN_BYTES, halve_feed_forwards
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe, quantize_tower

TOKENS, WIDTH, NEURONS = 197, 16, 700  # 0.55 MB of neurons
HALVES = {"up": ["up.0", "up.1"], "down": ["down.0", "down.1"]}
ACTIVATIONS = {
    "gelu": [helper.make_node("Gelu", ["ub"], ["h"], "gelu")],
    "quick gelu": [
        helper.make_node("Mul", ["ub", "slope"], ["m"], "slope"),
        helper.make_node("Sigmoid", ["m"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["ub", "s"], ["h"], "gate"),
    ],
}


def feed_forward(activation="gelu", *, tokens=TOKENS, neurons=NEURONS, behind=()):
    """``y = x + down(act(up(norm(x))))`` of ``x [B, L, W]``, and what `behind` adds."""
    random = np.random.default_rng(0)
    shapes = {
        "scale": (WIDTH,),
        "up.w": (WIDTH, neurons),
        "up.b": (neurons,),
        "down.w": (neurons, WIDTH),
        "down.b": (WIDTH,),
    }
    constants = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    constants["slope"] = np.float32(1.702)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale"], ["n"], "norm", axis=-1),
        helper.make_node("MatMul", ["n", "up.w"], ["u"], "up"),
        helper.make_node("Add", ["u", "up.b"], ["ub"], "up_bias"),
        *ACTIVATIONS[activation],
        helper.make_node("MatMul", ["h", "down.w"], ["d"], "down"),
        helper.make_node("Add", ["d", "down.b"], ["db"], "down_bias"),
        helper.make_node("Add", ["x", "db"], ["y"], "residual"),
        *behind,
    ]
    graph = helper.make_graph(
        nodes,
        "feed_forward",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", tokens, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", tokens, WIDTH])]
        + [
            helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
            for node in behind
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, batch=2):
    feed = np.random.default_rng(1).standard_normal((batch, TOKENS, WIDTH), np.float32)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": feed})[0]


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("neurons", [700, 1024])  # 352 and 348, 512 and 512
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_both_halves_equal_the_original(activation, neurons):
    original, halved = (feed_forward(activation, neurons=neurons) for _ in range(2))
    assert halve_feed_forwards(halved) == HALVES
    onnx.checker.check_model(halved, full_check=True)
    assert kinds(halved)["MatMul"] == 4
    np.testing.assert_allclose(run(halved), run(original), rtol=1e-5, atol=1e-4)
    weights = {tensor.name: list(tensor.dims) for tensor in halved.graph.initializer}
    columns = [
        weights[node.input[1]][1] for node in halved.graph.node if node.name.startswith("up.")
    ]
    assert sum(columns) == neurons
    assert columns[0] % 32 == 0


def test_the_recipe_writes_them_in_integers(tmp_path):
    source = tmp_path / "source.onnx"
    onnx.save_model(feed_forward(), source)
    errors = []
    for form, products in (("whole", 2), ("halves", 4)):
        target = tmp_path / f"{form}.onnx"
        recipe = Int8Recipe(weight_range="8 bit", feed_forward=form)
        quantize_tower(source, target, recipe, text=False)
        model = onnx.load(target)
        assert (kinds(model)["MatMulInteger"], kinds(model)["MatMul"]) == (products, 0)
        errors.append(np.linalg.norm(run(model) - run(feed_forward())))
    assert 0 < errors[1] < 1.02 * errors[0]  # each half has a scale of its own


def test_a_layer_that_stays_float_does_so_in_both_halves(tmp_path):
    source, target = tmp_path / "source.onnx", tmp_path / "int8.onnx"
    onnx.save_model(feed_forward(), source)
    recipe = Int8Recipe(weight_range="8 bit", feed_forward="halves")
    quantize_tower(source, target, recipe, text=False, keep_float=["down"])
    names = [node.name for node in onnx.load(target).graph.node if node.op_type == "MatMul"]
    assert sorted(names) == HALVES["down"]


def inner_reader():
    return [helper.make_node("Relu", ["h"], ["other"], "other")]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"neurons": MIN_BYTES // 4 // TOKENS}, id="fits whole"),
        pytest.param({"neurons": MAX_BYTES // 4 // TOKENS + 1}, id="halves do not fit"),
        pytest.param({"tokens": "tokens"}, id="texts of any length"),
        pytest.param({"behind": inner_reader()}, id="another reader"),
    ],
)
def test_others_stay_unsplit(options):
    model = feed_forward(**options)
    before = model.SerializeToString()
    assert halve_feed_forwards(model) == {}
    assert model.SerializeToString() == before


def test_a_product_with_a_vector_is_none_of_it():
    model = feed_forward()
    vector = numpy_helper.from_array(np.ones(WIDTH, np.float32), "vector")
    model.graph.initializer.append(vector)
    model.graph.node.append(helper.make_node("MatMul", ["y", "vector"], ["z"], "vector"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    assert halve_feed_forwards(model) == HALVES


def test_few_neurons_have_no_halves():
    """At 5,000 tokens 32 of them fill the cache, and are one tile."""
    assert halve_feed_forwards(feed_forward(tokens=5000, neurons=32)) == {}


def test_layers_that_share_constants():
    """Equal constants are one in an exported graph."""
    first, second = feed_forward(), feed_forward()
    for node in second.graph.node:
        node.name = f"second.{node.name}"
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name not in {tensor.name for tensor in first.graph.initializer}:
                    names[index] = "y" if name == "x" else f"second.{name}"
    first.graph.node.extend(second.graph.node)
    first.graph.output[0].name = "second.y"
    before = onnx.ModelProto.FromString(first.SerializeToString())
    assert len(halve_feed_forwards(first)) == 4
    np.testing.assert_allclose(run(first), run(before), rtol=1e-4, atol=1e-3)
