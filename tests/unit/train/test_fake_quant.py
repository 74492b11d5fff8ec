"""Rounded products against onnxruntime's operators, its files, and the export's weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tinyclip_edge.config.preset import load_preset, preset_names
from tinyclip_edge.errors import ConfigError, ModelError
from tinyclip_edge.models import load_clip
from tinyclip_edge.runtime.session import session_options
from tinyclip_edge.train.qat import exported_stream
from tinyclip_edge.train.qat.fake_quant import Rounding, rounded
from tinyclip_edge.train.qat.near_values import (
    as_int8,
    as_uint8,
    byte_rows,
    half_bytes,
    int8_weights,
    table_blocks,
)
from tinyclip_edge.train.qat.quantized_task import RoundedEncoder, TowerRounding
from tinyclip_edge.train.qat.source import rounding_for
from tinyclip_edge.train.tasks.encoders import PairEncoder
from tinyclip_export.layout import ANY_INPUT
from tinyclip_export.onnx_passes import exporter, split_ffn
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe
from tinyclip_export.quantization.overflow_safe import pair_safe
from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.token_embedding import byte_rows as exported_rows
from tinyclip_export.quantization.token_embedding import half_byte_blocks
from tinyclip_export.quantization.weight_only import WeightOnlyRecipe
from tinyclip_export.towers.factory import image_tower, text_tower

TEXTS = ("a photo of the red dog", "cat", "blue circle square", "bicycle of the cat")


def run_operator(kind: str, inputs: dict[str, np.ndarray], outputs: int, **settings) -> list:
    """What onnxruntime answers for one operator."""
    helper = onnx.helper
    names = [f"out{i}" for i in range(outputs)]
    domain = settings.get("domain", "")
    graph = helper.make_graph(
        [helper.make_node(kind, list(inputs), names, **settings)],
        kind,
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in names],
    )
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers with a few outliers, as activations and weights have them."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random) ** 3


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0, 100.0])
def test_activations_are_those_of_onnxruntime(shift):
    x = values(4, 9, 33) + shift
    quantized, scale, zero = run_operator("DynamicQuantizeLinear", {"x": x.numpy()}, 3)
    expected = (quantized.astype(np.float32) - np.float32(zero)) * scale
    np.testing.assert_array_equal(as_uint8(x, per_row=False).numpy(), expected)


def test_a_row_has_the_scale_that_it_gets_alone():
    x = values(3, 5, 16) * torch.tensor([1.0, 10.0, 0.01]).view(3, 1, 1)
    alone = torch.cat([as_uint8(row[None], per_row=False) for row in x])
    assert torch.equal(as_uint8(x, per_row=True), alone)
    assert not torch.equal(as_uint8(x, per_row=False), alone)


def test_zeros_stay_zeros():
    x = torch.zeros(2, 3)
    assert torch.equal(as_uint8(x, per_row=True), x)
    assert torch.equal(as_int8(torch.zeros(2, 64), "overflow_safe"), torch.zeros(2, 64))
    assert torch.equal(half_bytes(torch.zeros(2, 64)), torch.zeros(2, 64))
    assert torch.equal(byte_rows(torch.zeros(2, 64)), torch.zeros(2, 64))
    assert torch.equal(table_blocks(torch.zeros(2, 64)), torch.zeros(2, 64))


@pytest.mark.parametrize("inputs", [64, 65])
def test_pair_safe_weights_are_those_of_the_export(inputs):
    weight = values(40, inputs)
    integers, scale = int8_weights(weight, "overflow_safe")
    expected, scales = pair_safe(weight.T.numpy())
    np.testing.assert_array_equal(integers.T.numpy(), expected)
    np.testing.assert_array_equal(scale.float().numpy(), scales)


def test_token_rows_are_those_of_the_export():
    table = values(50, 64)
    integers, scale = exported_rows(table.numpy())
    np.testing.assert_allclose(byte_rows(table).numpy(), integers * scale, rtol=1e-6)
    halves, scales = half_byte_blocks(table.numpy())
    blocks = (halves.reshape(50, 2, 32).astype(np.float32) - 8) * scales[..., None]
    np.testing.assert_allclose(table_blocks(table).numpy(), blocks.reshape(50, 64), rtol=1e-5)


class ToyTowers:
    """Both towers of a toy CLIP as files, and inputs for them."""

    def __init__(self, clip, folder) -> None:
        self.clip, self.folder = clip, folder
        exporter.export_image_tower(
            image_tower(clip.model), folder / "image.onnx", image_size=32, form=ANY_INPUT
        )
        exporter.export_text_tower(text_tower(clip.model), folder / "text.onnx", form=ANY_INPUT)
        generator = torch.Generator().manual_seed(3)
        self.pixels = torch.randn(8, 3, 32, 32, generator=generator)
        ids = clip.tokenizer(list(TEXTS))
        ends = ids.argmax(dim=1)
        self.texts = [row[None, : end + 1] for row, end in zip(ids, ends, strict=True)]

    def answers(self, tower: str, recipe) -> torch.Tensor:
        """Embeddings of the quantized file, one input at a time."""
        source, target = self.folder / f"{tower}.onnx", self.folder / f"{tower}_small.onnx"
        recipe.write(QuantizeJob(tower, source, target))
        # As the runtime opens it: 8-bit weights overflow otherwise on x86 without VNNI.
        options = session_options(precise_int8=recipe.saturates)
        session = ort.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        inputs = self.pixels.split(1) if tower == "image" else self.texts
        outputs = [session.run(None, {name: one.numpy()})[0] for one in inputs]
        return torch.from_numpy(np.concatenate(outputs))

    @torch.no_grad()
    def here(self, tower: str, how: Rounding | None) -> torch.Tensor:
        """Embeddings of PyTorch, pictures as one batch."""
        encoder = RoundedEncoder(self.clip, TowerRounding(how, how)).eval()
        if tower == "image":
            return encoder.encode_image(self.pixels)
        return torch.cat([encoder.encode_text(one) for one in self.texts])


@pytest.fixture(scope="module")
def toy_towers(toy_teacher_folder, tmp_path_factory) -> ToyTowers:
    return ToyTowers(load_clip(str(toy_teacher_folder)), tmp_path_factory.mktemp("towers"))


@pytest.mark.parametrize(
    ("tower", "weights", "table"),
    [("image", weights, "8 bit") for weights in ("overflow_safe", "7 bit", "8 bit")]
    + [
        ("text", weights, table)
        for weights in ("overflow_safe", "8 bit")
        for table in ("8 bit", "4 bit")
    ],
)
def test_rounded_towers_answer_as_the_int8_file(toy_towers, tower, weights, table):
    file = toy_towers.answers(tower, Int8Recipe("int8", weights, table))
    here = toy_towers.here(tower, Rounding(weights, table))
    distance = (toy_towers.here(tower, None) - file).norm(dim=1)
    assert (distance > 1e-3).all()
    off = (here - file).norm(dim=1) / distance
    # Sums differ in the last bit. Where that moves an activation over a rounding edge, the rest of
    # the tower rounds otherwise; where it does not, the answers are the same.
    assert (off < 1e-3).float().mean() >= 0.25
    assert off.mean() < 0.5


INT8_PRESETS = [
    name
    for name in preset_names()
    if "int8" in load_preset(name).precisions and not load_preset(name).engine.name
]


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("name", INT8_PRESETS)
def test_a_target_is_imitated_with_its_norms_and_layers(toy_towers, monkeypatch, tower, name):
    # A toy's layers are too small to be split; here those of a whole picture are not.
    for module in (split_ffn, exported_stream):
        monkeypatch.setattr(module, "MIN_BYTES", 4 * 4 * 512)
    preset = load_preset(name)
    file = toy_towers.answers(tower, Int8Recipe(**preset.int8.model_dump()))
    how = rounding_for(["int8"], preset)
    distance = (toy_towers.here(tower, None) - file).norm(dim=1)
    off = (toy_towers.here(tower, how) - file).norm(dim=1) / distance
    assert off.mean() < 0.5 and (off < 1e-3).float().mean() >= 0.25
    if how.centred:  # and norms with means would not do
        plain = replace(how, centred=False, halves=False)
        assert ((toy_towers.here(tower, plain) - file).norm(dim=1) / distance).mean() > 0.5


@pytest.mark.parametrize("tower", ["image", "text"])
def test_rounded_towers_answer_as_the_4_bit_file(toy_towers, tower):
    file = toy_towers.answers(tower, WeightOnlyRecipe("4 bit"))
    here = toy_towers.here(tower, Rounding("4 bit", "4 bit"))
    distance = (toy_towers.here(tower, None) - file).norm()
    # The file also rounds activations to 8 bits inside a block, which is not imitated.
    assert (here - file).norm() < 0.15 * distance


def test_attention_of_torch_is_rounded_as_that_of_the_lean_towers():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(64, 2, batch_first=True)
    x, mask = values(3, 7, 64), torch.full((7, 7), -torch.inf).triu(1)
    how = Rounding()
    with rounded(how):
        output, _ = attention(x, x, x, need_weights=False, attn_mask=mask)
    weight = as_int8(attention.in_proj_weight, "overflow_safe")
    projections = F.linear(as_uint8(x, per_row=True), weight, attention.in_proj_bias)
    q, k, v = projections.view(3, 7, 3, 2, 32).permute(2, 0, 3, 1, 4)
    heads = (q @ k.transpose(2, 3) / 32**0.5 + mask).softmax(-1) @ v
    joined = as_uint8(heads.transpose(1, 2).flatten(2), per_row=True)
    out = attention.out_proj
    expected = F.linear(joined, as_int8(out.weight, "overflow_safe"), out.bias)
    torch.testing.assert_close(output, expected, atol=2e-2, rtol=0)
    assert (output - expected).abs().mean() < 1e-3


def test_attention_with_a_padding_mask_is_refused():
    attention, x = nn.MultiheadAttention(64, 2, batch_first=True), values(3, 7, 64)
    padded = torch.zeros(3, 7, dtype=torch.bool)
    with rounded(Rounding()), pytest.raises(ModelError, match="padding mask"):
        attention(x, x, x, key_padding_mask=padded)


def test_gradients_pass_straight_through(toy_teacher):
    clip = deepcopy(toy_teacher)
    clip.model.requires_grad_(True)
    encoder = PairEncoder(clip)
    pixels, tokens = values(4, 3, 32, 32), clip.tokenizer(list(TEXTS))
    with rounded(Rounding()):
        image, text, *_ = encoder(pixels, tokens)
    (image * text).sum().backward()
    missing = {n for n, p in clip.model.named_parameters() if p.grad is None}
    assert missing == {"logit_scale"}
    assert all(p.grad.isfinite().all() for p in clip.model.parameters() if p.grad is not None)
    # Of a single product: the gradient of the rounded operands, as if they were the float ones.
    weight = nn.Parameter(values(8, 6))
    x = values(2, 6).requires_grad_()
    with rounded(Rounding("8 bit")):
        F.linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, as_int8(weight, "8 bit").sum(0).expand(2, 6))
    torch.testing.assert_close(weight.grad, as_uint8(x, per_row=True).sum(0).expand(8, 6))


def test_products_of_activations_stay_float():
    x, y = values(3, 5, 8), values(3, 8, 5, seed=1)
    with rounded(Rounding()):
        assert torch.equal(x @ y, torch.bmm(x, y))
    assert torch.equal(F.linear(x, y[0].T), x @ y[0])  # and nothing is rounded behind the context


def test_an_unknown_rounding_names_the_nearest():
    with pytest.raises(
        ConfigError, match="'overflow_save' is unknown; did you mean 'overflow_safe'"
    ):
        Rounding("overflow_save")
    with pytest.raises(ConfigError, match="token_table '8bit' is unknown; did you mean '8 bit'"):
        Rounding(token_table="8bit")
