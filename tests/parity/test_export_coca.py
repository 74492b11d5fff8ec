"""ONNX towers of CoCa against open_clip's, within float32's rounding."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from coca import TEXTS, make_coca, pictures
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.assemble import assemble
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.towers.factory import image_tower, input_form, text_tower


def clip_of(**changes):
    model, config = make_coca(**changes)
    clip = assemble(config, None, name="coca")
    state = {k: t for k, t in model.state_dict().items() if not k.startswith("text_decoder.")}
    clip.model.load_state_dict(state)
    return model, clip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_cfg": {"pool_type": "avg"}},
        {"vision_cfg": {"width": 48}},  # as wide as its embedding: keys in one matrix
        {"text_cfg": {"no_causal_mask": True}},
    ],
)
def test_towers_are_those_of_open_clip(changes):
    model, clip = clip_of(**changes)
    ids = clip.tokenizer(TEXTS)
    with torch.no_grad():
        image, text = image_tower(clip.model)(pictures()), text_tower(clip.model, ids[0])(ids)
        theirs = model.encode_image(pictures()), model.encode_text(ids)
    for ours, other in zip((image, text), theirs, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-6, rtol=0)


def test_onnxruntime_gives_the_features(tmp_path):
    model, clip = clip_of()
    ids = clip.tokenizer(TEXTS)
    text = text_tower(clip.model, ids[0])
    form = input_form(clip, text, None)
    assert form.padded and text.context_length == 8
    exporter.export_text_tower(text, tmp_path / "text.onnx", form=form)
    exporter.export_image_tower(
        image_tower(clip.model), tmp_path / "image.onnx", image_size=32, form=form
    )
    with torch.no_grad():
        expected = model.encode_image(pictures()).numpy(), model.encode_text(ids).numpy()
    for name, feed, theirs in zip(
        ("image", "text"),
        ({"pixel_values": pictures().numpy()}, {"input_ids": ids.numpy()}),
        expected,
        strict=True,
    ):
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        np.testing.assert_allclose(session.run(None, feed)[0], theirs, atol=1e-5)


def test_several_pooled_tokens_are_no_embedding():
    _, clip = clip_of(vision_cfg={"attentional_pool": True, "pool_type": "none"})
    with pytest.raises(ModelError, match="without a pooled embedding"):
        image_tower(clip.model)
