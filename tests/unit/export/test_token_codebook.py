"""Token tables of three values a byte, and how much errors of rows matter."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tinyclip_export.quantization.block_rounding import error_feedback
from tinyclip_export.quantization.fp16 import halve
from tinyclip_export.quantization.table_sensitivity import table_sensitivity
from tinyclip_export.quantization.token_codebook import codebook_table, k_means
from tinyclip_export.quantization.token_embedding import quantize_table, rounded_table

RNG = np.random.default_rng(0)


def lookup(table):
    """A graph that looks rows up."""
    width = table.shape[1]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], "lookup")],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "length", width])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model


def rows_of(model, ids):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": ids})[0]


def test_few_distinct_rows_are_exact():
    """256 words a triple hold 200 rows without loss, but for float16."""
    table = RNG.standard_normal((200, 10)).astype(np.float32)
    near = codebook_table(table, np.eye(10)).dequantized()
    np.testing.assert_allclose(near, table, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("width", [32, 33, 34])
def test_the_graph_gives_the_rows_of_the_codebooks(width):
    table = RNG.standard_normal((700, width)).astype(np.float32)
    table[3] = 0.0
    model = lookup(table)
    quantize_table(model, 3)
    ids = np.append(RNG.integers(0, 700, (2, 5)), [[3], [3]], axis=1)
    expected = codebook_table(table, np.eye(width)).dequantized()[ids]
    np.testing.assert_allclose(rows_of(model, ids), expected, rtol=1e-6, atol=1e-6)
    assert not rows_of(model, ids)[:, 5].any()
    codes = next(tensor for tensor in model.graph.initializer if tensor.name == "table_codes")
    assert list(codes.dims) == [700, -(-width // 3)]
    assert "table" not in {tensor.name for tensor in model.graph.initializer}
    onnx.checker.check_model(model)


@pytest.mark.parametrize("bits", [3, 4])
def test_errors_go_where_they_matter_least(bits, tmp_path):
    table = RNG.standard_normal((2000, 32)).astype(np.float32)
    onnx.save(lookup(table), tmp_path / "source.onnx")
    mix = RNG.standard_normal((32, 8))  # the embedding depends on eight directions alone
    feedback = error_feedback(mix @ mix.T, 0.1)
    rounded = rounded_table(tmp_path / "source.onnx", bits, feedback)
    aware, plain = lookup(table), lookup(table)
    quantize_table(aware, bits, rounded)
    quantize_table(plain, bits)
    ids = np.arange(2000)[None]
    errors = [np.square((rows_of(model, ids)[0] - table) @ mix).mean() for model in (aware, plain)]
    assert errors[0] < 0.5 * errors[1]


def test_a_table_of_another_width_is_left_to_the_nearest_values(tmp_path):
    onnx.save(lookup(np.ones((5, 32), np.float32)), tmp_path / "source.onnx")
    assert rounded_table(tmp_path / "source.onnx", 4, np.eye(16)) is None
    assert rounded_table(tmp_path / "source.onnx", 8, np.eye(32)) is None


def test_the_graph_of_codebooks_works_in_float16():
    table = RNG.standard_normal((300, 32)).astype(np.float32)
    model = lookup(table)
    quantize_table(model, 3)
    ids = np.arange(300)[None]
    expected = rows_of(model, ids)
    half = halve(model)
    np.testing.assert_allclose(rows_of(half, ids), expected, rtol=2e-3, atol=2e-3)


def test_k_means_finds_the_centres():
    centres = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0]], np.float32)
    points = np.repeat(centres, 300, axis=0) + RNG.standard_normal((900, 3)).astype(np.float32) / 9
    near = k_means(points)
    for centre in centres:
        assert np.linalg.norm(near - centre, axis=1).min() < 0.5


def test_sensitivity_is_the_square_of_the_derivative():
    """A tower that is a product has that product as its derivative, whatever the ids."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 4))
    ids = [RNG.integers(0, 50, (4, 3)) for _ in range(300)]
    weight = tower[1].weight.detach().double().numpy()
    measured = table_sensitivity(tower, ids)
    np.testing.assert_allclose(
        measured, weight.T @ weight, atol=0.12 * np.abs(weight).max() ** 2 * 4
    )
    assert tower[0].weight.grad is None
