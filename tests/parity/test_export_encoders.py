"""ONNX text towers of transformers' encoders, against open_clip's HFTextEncoder around them.

Both compute in float32, in another order: unit-norm embeddings may differ by 1e-5 at most.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from families import ENCODERS, families, family
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import create_student
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe, quantize_tower
from tinyclip_export.towers.encoder_text import EncoderTextTower
from tinyclip_export.towers.factory import input_form, text_tower

KINDS = ("XLM-R", "RoBERTa", "mT5", "NLLB", "AltCLIP", "ChineseCLIP")
# Poolers of open_clip that can be run, and both projections; the first are those of the families.
POOLS = [
    *((kind, None, None) for kind in KINDS),
    ("XLM-R", "cls_pooler", "linear"),
    ("XLM-R", "cls_last_hidden_state_pooler", "mlp"),
    ("mT5", "cls_last_hidden_state_pooler", "linear"),
    ("NLLB", "mean_pooler", "mlp"),
]
TEXTS = ["a cat", "a red bicycle in the rain at night and snow", "", "猫 <pad> and zebra"]


def tower_of(clip):
    tower = text_tower(clip.model, clip.tokenizer(["a"])[0])
    assert isinstance(tower, EncoderTextTower)
    return tower


@torch.inference_mode()
def reference(clip, ids):
    return clip.model.encode_text(ids, normalize=True).numpy()


def small(kind, pool=None, proj=None, **text):
    changes = {"hf_pooler_type": pool, "hf_proj_type": proj}
    return family(kind, text_cfg={**{k: v for k, v in changes.items() if v}, **text})


@pytest.mark.parametrize(("kind", "pool", "proj"), POOLS)
def test_features_are_those_of_open_clip(kind, pool, proj):
    clip = small(kind, pool, proj)
    tower = tower_of(clip)
    ids = clip.tokenizer(TEXTS)
    with torch.inference_mode():
        assert np.abs(tower(ids).numpy() - reference(clip, ids)).max() < 1e-5


@pytest.fixture(scope="module")
def exported_text(tmp_path_factory):
    """The file of a kind's tower, exported once."""

    @cache
    def of(kind):
        path = tmp_path_factory.mktemp("towers") / "text.onnx"
        exporter.export_text_tower(tower_of(small(kind)), path)
        return path

    return of


@pytest.mark.parametrize("kind", families(KINDS))
def test_onnxruntime_gives_the_features_at_any_length(kind, exported_text):
    clip = small(kind)
    session = onnxruntime.InferenceSession(exported_text(kind))
    assert session.get_inputs()[0].shape == ["batch", "sequence"]
    pad = clip.model.text.config.pad_token_id
    ids = clip.tokenizer(TEXTS)
    wanted = reference(clip, ids)
    (padded,) = session.run(None, {"input_ids": ids.numpy()})
    assert np.abs(padded - wanted).max() < 1e-5
    for row, expected in zip(ids, wanted, strict=True):
        words = row[: int(row.ne(pad).nonzero().max()) + 1][None].numpy()
        if words.shape[1] >= 2:  # the shortest text that the graph takes
            (alone,) = session.run(None, {"input_ids": words})
            assert np.abs(alone[0] - expected).max() < 1e-5
    # Random ids have padding among the words, too.
    ids = torch.randint(0, 40, (3, 12))
    ids[:, 0] = 5
    (between,) = session.run(None, {"input_ids": ids.numpy()})
    assert np.abs(between - reference(clip, ids)).max() < 1e-5


def test_an_encoder_that_hides_its_token_table(monkeypatch):
    """M2M-100's in transformers before 4.54."""
    clip = small("NLLB")

    def hidden(_encoder):
        raise NotImplementedError

    monkeypatch.setattr(type(clip.model.text.transformer), "get_input_embeddings", hidden)
    assert tower_of(clip).tokens is clip.model.text.transformer.embed_tokens


def test_relu_and_ungated_t5(tmp_path):
    table = {**ENCODERS["mT5"]["text_cfg"]["hf_config"], "feed_forward_proj": "relu"}
    clip = small("mT5", hf_config=table)
    ids = clip.tokenizer(TEXTS)
    with torch.inference_mode():
        assert np.abs(tower_of(clip)(ids).numpy() - reference(clip, ids)).max() < 1e-5


@pytest.mark.parametrize("kind", families(KINDS))
def test_a_narrower_student(kind):
    student = create_student({"text_cfg": {"width": 32, "layers": 1}}, family(kind))
    ids = student.tokenizer(TEXTS)
    with torch.inference_mode():
        assert np.abs(tower_of(student)(ids).numpy() - reference(student, ids)).max() < 1e-5


def test_texts_are_padded_where_the_tokenizer_pads_with_another_token():
    clip = small("XLM-R")
    assert not input_form(clip, tower_of(clip), None).padded
    clip.tokenizer.tokenizer.pad_token = "<mask>"
    form = input_form(clip, tower_of(clip), None)
    assert (form.padded, form.pad_id) == (True, 4)


def test_an_unknown_pooling_is_refused():
    clip = small("XLM-R")
    clip.model.text.pooler = torch.nn.Identity()
    with pytest.raises(ModelError, match="HFTextEncoder \\(xlm-roberta\\) cannot be exported"):
        text_tower(clip.model)


def test_texts_longer_than_the_positions_are_refused():
    clip = small("XLM-R")
    with pytest.raises(ModelError, match="12 positions, but its texts have 20 tokens"):
        text_tower(clip.model, torch.zeros(20, dtype=torch.int64))


def test_gelu_is_one_node(exported_text):
    operators = [node.op_type for node in onnx.load(exported_text("mT5")).graph.node]
    assert operators.count("Gelu") == 4 + 1  # of the projection
    assert "Tanh" not in operators


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_int8_with_the_rewrites_of_x86(kind, exported_text, tmp_path):
    """onnxruntime's Attention asks for a mask with a row per query."""
    clip = small(kind)
    recipe = Int8Recipe(norms="rms", attention="operator", feed_forward="halves")
    quantize_tower(exported_text(kind), tmp_path / "int8.onnx", recipe, text=True)
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    ids = clip.tokenizer(TEXTS)
    (found,) = session.run(None, {"input_ids": ids.numpy()})
    assert (found * reference(clip, ids)).sum(axis=1).min() > 0.99
    operators = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert operators.count("Attention") == (0 if kind == "mT5" else 4)  # its scores have no scale
    assert operators.count("RMSNormalization") == (9 if kind == "NLLB" else 0)
