"""Attention as one ONNX operator says what its nodes said."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tinyclip_edge.errors import ConfigError
from tinyclip_export.onnx_passes.fuse_attention import (
    use_attention_operator,
    use_multi_head_attention,
)
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe, quantize_tower

STEMS = {"image": "vision_model", "text": "text_model"}
LAYERS = {"image": 4, "text": 3}
OPERATOR = Int8Recipe(weight_range="8 bit", attention="operator")


def source_of(exported, tower):
    return exported.folder / "onnx" / f"{STEMS[tower]}.onnx"


def feeds_of(exported, tower):
    random = np.random.default_rng(1)
    if tower == "image":
        size = exported.clip.image_size
        return [
            {"pixel_values": random.standard_normal((n, 3, size, size), np.float32)} for n in (1, 3)
        ]
    texts = exported.pairs[1]
    ids = exported.clip.tokenizer(texts).numpy()
    return [{"input_ids": ids[:, :length]} for length in (9, ids.shape[1])]


def run(model, feed):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]


@pytest.mark.parametrize("tower", STEMS)
def test_embeddings_are_the_same_for_every_batch_and_length(exported, tower):
    before = onnx.load(source_of(exported, tower))
    after = onnx.load(source_of(exported, tower))
    assert use_attention_operator(after) == LAYERS[tower]
    onnx.checker.check_model(after, full_check=True)
    for feed in feeds_of(exported, tower):
        np.testing.assert_allclose(run(after, feed), run(before, feed), atol=2e-6)


@pytest.mark.parametrize("tower", STEMS)
def test_onnxruntimes_own_operator_says_the_same(exported, tower):
    before = onnx.load(source_of(exported, tower))
    after = onnx.load(source_of(exported, tower))
    # The last block of a text has one row of the mask for each text and all heads, which
    # onnxruntime 1.20 reads at the wrong place: it keeps its nodes.
    assert use_multi_head_attention(after) == LAYERS[tower] - (tower == "text")
    opsets = {entry.domain: entry.version for entry in after.opset_import}
    assert opsets == {"": 20, "com.microsoft": 1}
    onnx.checker.check_model(after)
    for feed in feeds_of(exported, tower):
        np.testing.assert_allclose(run(after, feed), run(before, feed), atol=2e-6)


def test_a_mask_with_one_row_for_all_queries_keeps_its_nodes(exported):
    model = onnx.load(source_of(exported, "text"))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    total = next(node for node in model.graph.node if softmax.input[0] in node.output)
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "one_row")
    )
    total.input[1] = "one_row"
    assert use_multi_head_attention(model) == LAYERS["text"] - 2


@pytest.mark.parametrize("tower", STEMS)
def test_without_a_target_a_file_opens_in_old_versions_and_has_one_node_an_attention(
    exported, tower, tmp_path
):
    target = tmp_path / "int8.onnx"
    recipe = Int8Recipe(attention="multi_head", norms="simplified")
    quantize_tower(source_of(exported, tower), target, recipe, text=tower == "text")
    model = onnx.load(target)
    kinds = Counter(node.op_type for node in model.graph.node)
    # Other providers take the separate nodes whole, and fine-tuning for int8 imitates layer norms.
    assert (Int8Recipe().attention, Int8Recipe().norms) == ("nodes", "layer")
    assert kinds["MultiHeadAttention"] == LAYERS[tower] - (tower == "text")
    assert kinds["SimplifiedLayerNormalization"] == 2 * LAYERS[tower] + 1
    assert kinds["RMSNormalization"] == kinds["Attention"] == 0
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 20
    for feed in feeds_of(exported, tower):
        expected = run(onnx.load(source_of(exported, tower)), feed)
        assert (run(model, feed) * expected).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("tower", STEMS)
def test_the_recipe_writes_it_into_the_integer_file(exported, tower, tmp_path):
    target = tmp_path / "int8.onnx"
    quantize_tower(source_of(exported, tower), target, OPERATOR, text=tower == "text")
    model = onnx.load(target)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["Attention"], kinds["Softmax"], kinds["MatMul"]) == (LAYERS[tower], 0, 0)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 23
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    for feed in feeds_of(exported, tower):
        expected = run(onnx.load(source_of(exported, tower)), feed)
        assert (run(model, feed) * expected).sum(axis=1).min() > 0.99


def test_a_mask_may_stand_on_either_side_of_the_sum(exported):
    before, after = (onnx.load(source_of(exported, "text")) for _ in range(2))
    behind = {node.input[0] for node in after.graph.node if node.op_type == "Softmax"}
    sums = [node for node in after.graph.node if behind.intersection(node.output)]
    assert [node.op_type for node in sums] == ["Add"] * LAYERS["text"]
    for node in sums:
        node.input[:] = node.input[::-1]
    assert use_attention_operator(after) == LAYERS["text"]
    for feed in feeds_of(exported, "text"):
        np.testing.assert_allclose(run(after, feed), run(before, feed), atol=2e-6)


def test_another_softmax_stays_as_it_is():
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["a", "a"], ["s"]),
            helper.make_node("Softmax", ["s"], ["p"]),
            helper.make_node("MatMul", ["p", "a"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    before = model.SerializeToString()
    assert use_attention_operator(model) == 0
    assert model.SerializeToString() == before


def test_an_unknown_form_of_attention_is_refused():
    with pytest.raises(
        ConfigError, match="attention 'operators' is unknown; did you mean 'operator'"
    ):
        Int8Recipe(attention="operators")
