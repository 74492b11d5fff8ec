"""The towers that are exported give a pruned model's features, whatever its layers have lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from masked_clip import make_clip, pairs, random_masks
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_export.towers.vit import ImageTower, TextTower


def pruned_model(toy_tokenizer_file, pruned_units):
    """Random masks; the layers in ``pruned_units`` and the last have no heads or no neurons."""
    clip = make_clip(toy_tokenizer_file)
    masks = random_masks(clip_units(clip), 2, off=0.2)
    for layer in pruned_units:
        masks.image.heads[layer].zero_()
        masks.text.neurons[layer].zero_()
        masks.text.heads[-1].zero_()
        masks.image.neurons[-1].zero_()
    return prune_clip(clip, masks).clip.model


@pytest.mark.parametrize("pruned_units", [(), (0,), (1, -1)])
def test_towers_of_a_pruned_model(toy_tokenizer_file, pruned_units):
    model = pruned_model(toy_tokenizer_file, pruned_units)
    pixels, ids = pairs()
    image, text = ImageTower(model).eval(), TextTower(model).eval()
    with torch.inference_mode():
        expected = model.encode_image(pixels, normalize=True).numpy()
        np.testing.assert_allclose(image(pixels).numpy(), expected, atol=1e-5)
        expected_text = model.encode_text(ids, normalize=True).numpy()
        np.testing.assert_allclose(text(ids).numpy(), expected_text, atol=1e-5)


def test_onnx_of_a_pruned_model(toy_tokenizer_file, tmp_path):
    import onnxruntime

    model = pruned_model(toy_tokenizer_file, (1, -1))
    pixels, path = pairs()[0], tmp_path / "image.onnx"
    names = {"input_names": ["pixel_values"]}
    torch.onnx.export(ImageTower(model).eval(), (pixels,), path, dynamo=True, **names)
    (onnx,) = onnxruntime.InferenceSession(path).run(None, {"pixel_values": pixels.numpy()})
    with torch.inference_mode():
        expected = model.encode_image(pixels, normalize=True).numpy()
    np.testing.assert_allclose(onnx, expected, atol=1e-5)
