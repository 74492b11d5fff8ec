"""A tower whose stream has no mean says with RMS norms what it said with layer norms."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models.load import LoadedClip
from tinyclip_export.onnx_passes.exporter import export_image_tower, export_text_tower
from tinyclip_export.onnx_passes.fuse_attention import use_attention_operator
from tinyclip_export.onnx_passes.rms_norm import remove_means, use_rms_norms
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe, quantize_tower
from tinyclip_export.towers.factory import image_tower, text_tower

STEMS = {"image": "vision_model", "text": "text_model"}
# Two a block and one more in the last, where one token asks; the norm in front of an image's
# stream and the one behind each stay, as no product with a bias reads them.
CENTRED = {"image": 2 * 4 + 1, "text": 2 * 3 + 1}
REMAINING = {"image": 2, "text": 1}
WIDTH, HIDDEN = 8, 16


@pytest.fixture(scope="module")
def towers(toy_teacher_folder, tmp_path_factory):
    """Towers whose weights, biases and norms all have a mean: zeros would hide what is folded.

    With inputs and, for each, the embeddings in float64. Shared: do not write over their files.
    """
    from tinyclip_edge.models import load_clip

    clip: LoadedClip = load_clip(str(toy_teacher_folder))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in clip.model.named_parameters():
            if name != "logit_scale":
                parameter.add_(0.1 * torch.randn_like(parameter) + 0.05)
    folder = tmp_path_factory.mktemp("towers")
    files = {tower: folder / f"{tower}.onnx" for tower in STEMS}
    modules = {"image": image_tower(clip.model), "text": text_tower(clip.model)}
    export_image_tower(modules["image"], files["image"], image_size=clip.image_size)
    export_text_tower(modules["text"], files["text"])
    random = np.random.default_rng(1)
    size = clip.image_size
    pixels = [random.standard_normal((n, 3, size, size), np.float32) for n in (1, 3)]
    ids = clip.tokenizer(["a photo of the cat", "red circle"]).numpy()
    feeds = {
        "image": [{"pixel_values": value} for value in pixels],
        "text": [{"input_ids": ids[:, :length]} for length in (9, ids.shape[1])],
    }
    exact = {
        tower: [in_float64(modules[tower], *feed.values()) for feed in feeds[tower]]
        for tower in STEMS
    }
    return files, feeds, exact


def in_float64(module, array):
    value = torch.from_numpy(array)
    with torch.no_grad():
        return module.double()(value.double() if value.is_floating_point() else value).numpy()


def run(model, feed):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("tower", STEMS)
def test_embeddings_are_the_same(towers, tower):
    # Not compared with the file before: onnxruntime 1.23 takes a layer norm's variance as
    # E[x²] - E[x]² in float32, which puts that one 5e-6 away where a stream has a mean.
    files, feeds, exact = towers
    after = onnx.load(files[tower])
    names = remove_means(after)
    assert len(names) == CENTRED[tower]
    use_rms_norms(after, names)
    assert kinds(after)["RMSNormalization"] == CENTRED[tower]
    assert kinds(after)["LayerNormalization"] == REMAINING[tower]
    onnx.checker.check_model(after, full_check=True)
    for feed, expected in zip(feeds[tower], exact[tower], strict=True):
        np.testing.assert_allclose(run(after, feed)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tower", STEMS)
def test_what_the_norms_read_has_no_mean(towers, tower):
    files, feeds, _ = towers
    model = onnx.load(files[tower])
    names = set(remove_means(model))
    read = [node.input[0] for node in model.graph.node if node.name in names]
    for name in read:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    for value in run(model, feeds[tower][1])[1:]:
        assert np.abs(value.mean(axis=-1)).max() < 1e-6 < value.std()


@pytest.mark.parametrize("tower", STEMS)
def test_the_recipe_writes_them_into_the_integer_file(towers, tower, tmp_path):
    files, feeds, _ = towers
    target = tmp_path / "int8.onnx"
    recipe = Int8Recipe(weight_range="8 bit", attention="operator", norms="rms")
    quantize_tower(files[tower], target, recipe, text=tower == "text")
    model = onnx.load(target)
    operators = kinds(model)
    assert (operators["RMSNormalization"], operators["LayerNormalization"]) == (
        CENTRED[tower],
        REMAINING[tower],
    )
    assert operators["MatMul"] == 0
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    plain = tmp_path / "plain.onnx"
    quantize_tower(files[tower], plain, Int8Recipe(weight_range="8 bit"), text=tower == "text")
    feed = many(feeds[tower][-1])
    expected = run(onnx.load(files[tower]), feed)[0]
    loss, usual = (
        (1 - (run(onnx.load(path), feed)[0] * expected).sum(axis=1)).mean()
        for path in (target, plain)
    )
    assert loss < 1.25 * usual


def many(feed):
    """The same kind of input, 64 times: errors of a few depend on luck."""
    random = np.random.default_rng(3)
    if "pixel_values" in feed:
        shape = (64, *feed["pixel_values"].shape[1:])
        return {"pixel_values": random.standard_normal(shape, np.float32)}
    start, end = feed["input_ids"][0, 0], feed["input_ids"].max()
    ids = random.integers(0, start, (64, feed["input_ids"].shape[1]))
    ids[:, 0], ids[:, -1] = start, end
    return {"input_ids": ids}


def pre_norm_block(*, extra=()):
    """One feed-forward block of a stream ``x [1, 4, W]`` that a product writes."""
    random = np.random.default_rng(0)
    shapes = {
        "in.w": (3, WIDTH),
        "scale": (WIDTH,),
        "shift": (WIDTH,),
        "up.w": (WIDTH, HIDDEN),
        "up.b": (HIDDEN,),
        "down.w": (HIDDEN, WIDTH),
        "down.b": (WIDTH,),
        "layer_scale": (WIDTH,),
    }
    constants = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    nodes = [
        helper.make_node("MatMul", ["x", "in.w"], ["start"], "in"),
        helper.make_node("LayerNormalization", ["start", "scale", "shift"], ["n"], "norm", axis=-1),
        helper.make_node("MatMul", ["n", "up.w"], ["u"], "up"),
        helper.make_node("Add", ["u", "up.b"], ["ub"], "up_bias"),
        helper.make_node("Relu", ["ub"], ["h"], "relu"),
        helper.make_node("MatMul", ["h", "down.w"], ["d"], "down"),
        helper.make_node("Add", ["d", "down.b"], ["db"], "down_bias"),
        *extra,
        helper.make_node("LayerNormalization", ["sum", "scale", "shift"], ["y"], "behind", axis=-1),
    ]
    if not any("sum" in node.output for node in extra):
        nodes.insert(-1, helper.make_node("Add", ["start", "db"], ["sum"], "residual"))
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


FEED = {"x": np.random.default_rng(2).standard_normal((1, 4, 3)).astype(np.float32)}


def test_a_block_by_hand():
    before, after = pre_norm_block(), pre_norm_block()
    assert remove_means(after) == ["norm"]
    use_rms_norms(after, ["norm"])
    np.testing.assert_allclose(run(after, FEED)[0], run(before, FEED)[0], atol=1e-5)
    values = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    bias = next(node.input[1] for node in after.graph.node if node.name == "up_bias")
    np.testing.assert_allclose(
        values[bias], values["up.b"] + values["shift"] @ values["up.w"], rtol=1e-5
    )


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(
            [
                helper.make_node("Mul", ["db", "layer_scale"], ["m"], "scaled"),
                helper.make_node("Relu", ["start"], ["s"], "foreign"),
                helper.make_node("Add", ["s", "m"], ["sum"], "residual"),
            ],
            id="sums of unknown mean",
        ),
        pytest.param(
            [
                helper.make_node("Relu", ["start"], ["s"], "reader"),
                helper.make_node("Mul", ["s", "db"], ["m"], "gate"),
                helper.make_node("Add", ["start", "m"], ["sum"], "residual"),
            ],
            id="another reader",
        ),
        pytest.param(
            [
                helper.make_node("Relu", ["start"], ["s"], "source"),
                helper.make_node("Add", ["db", "s"], ["ds"], "inner"),
                helper.make_node("Add", ["start", "ds"], ["sum"], "residual"),
            ],
            id="a source that reads the stream",
        ),
    ],
)
def test_a_stream_that_may_not_be_rewritten_stays(extra):
    model = pre_norm_block(extra=extra)
    before = model.SerializeToString()
    assert remove_means(model) == []
    assert model.SerializeToString() == before


def test_one_foreign_value_loses_its_mean_at_run_time():
    scaled = [
        helper.make_node("Mul", ["db", "layer_scale"], ["m"], "scaled"),
        helper.make_node("Add", ["start", "m"], ["sum"], "residual"),
    ]
    before, after = pre_norm_block(extra=scaled), pre_norm_block(extra=scaled)
    assert remove_means(after) == ["norm"]
    assert kinds(after)["ReduceMean"] == 1
    use_rms_norms(after, ["norm"])
    np.testing.assert_allclose(run(after, FEED)[0], run(before, FEED)[0], atol=1e-5)


def test_a_norm_whose_product_has_no_bias_keeps_its_own():
    model = pre_norm_block()
    for node in list(model.graph.node):
        if node.name == "up_bias":
            model.graph.node.remove(node)
        elif node.name == "relu":
            node.input[0] = "u"
    before = model.SerializeToString()
    assert remove_means(model) == []
    assert model.SerializeToString() == before


def test_both_operators_together_say_the_same(towers):
    files, feeds, exact = towers
    after = onnx.load(files["image"])
    names = remove_means(after)
    assert use_attention_operator(after) == 4
    use_rms_norms(after, names)
    for feed, expected in zip(feeds["image"], exact["image"], strict=True):
        np.testing.assert_allclose(run(after, feed)[0], expected, rtol=0, atol=1e-6)


def test_an_unknown_form_of_norms_is_refused():
    with pytest.raises(ConfigError, match="norms 'rmss' is unknown; did you mean 'rms'"):
        Int8Recipe(norms="rmss")
