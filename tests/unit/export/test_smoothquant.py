"""Moving outliers of activations into weights leaves the float model as it was."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tinyclip_edge.models.build import build_model
from tinyclip_export.quantization.smoothquant import (
    STRENGTHS,
    Fold,
    activation_peaks,
    folds,
    smoothed,
)
from tinyclip_export.towers.blocks import Projection
from tinyclip_export.towers.factory import image_tower, text_tower
from tinyclip_export.towers.timm import TimmTower


def inputs_of(tower_name):
    torch.manual_seed(1)
    if tower_name == "text":
        return [torch.randint(1, 500, (2, 9)), torch.randint(1, 500, (1, 4))]
    return [torch.randn(2, 3, 32, 32) for _ in range(2)]


@pytest.mark.parametrize("name", ["image", "text"])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_smoothed_tower_is_the_same_function(toy_teacher, name, strength):
    tower = (image_tower if name == "image" else text_tower)(toy_teacher.model)
    inputs = inputs_of(name)
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    other = smoothed(tower, activation_peaks(tower, inputs), strength)
    with torch.inference_mode():
        for value in inputs:
            assert (tower(value) - other(value)).abs().max() < 2e-6
    after = tower.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    moved = [
        key for key, value in other.state_dict().items() if not torch.equal(value, before[key])
    ]
    # a layer: weight and bias of two norms, four readers, values and their reader
    assert any("attention.q" in key for key in moved)
    assert any("up" in key for key in moved)
    assert "projection.matrix" in moved


def test_every_linear_layer_behind_a_norm_is_in_a_fold(toy_teacher):
    tower = image_tower(toy_teacher.model)
    readers = {id(reader) for fold in folds(tower) for reader in fold.readers}
    missing = [
        name
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear | Projection) and id(module) not in readers
    ]
    # pixels come from no layer, and what follows an activation function has no exact factor
    assert missing == ["patch.product", "body.0.down", "body.1.down", "body.2.down", "last.down"]


def test_the_pool_of_a_resnet_and_a_timm_vit_fold_too():
    text = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 1, "layers": 1}
    kinds = {
        "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "timm": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token"},
    }
    for kind, vision in kinds.items():
        torch.manual_seed(0)
        model = build_model({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}, "toy")
        tower = image_tower(model)
        pixels = torch.randn(2, 3, vision["image_size"], vision["image_size"])
        other = smoothed(tower, activation_peaks(tower, [pixels]), 0.5)
        assert len(folds(tower)) == (1 if kind == "resnet" else 2 * len(tower.trunk.blocks))
        with torch.inference_mode():
            assert (tower(pixels) - other(pixels)).abs().max() < 2e-6


def test_the_norms_of_a_fastvit_fold_into_pointwise_convolutions():
    from timm.models.fastvit import FastVit

    torch.manual_seed(0)
    mixers = ("repmixer", "repmixer", "repmixer", "attention")
    dims = {"layers": (1, 1, 1, 1), "embed_dims": (32, 32, 64, 64)}
    visual = nn.Module()
    visual.trunk = FastVit(**dims, token_mixers=mixers, num_classes=16)
    visual.head = nn.Identity()
    with torch.no_grad():
        for name, parameter in visual.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1.0)
        visual.trunk.train()(torch.randn(8, 3, 64, 64))
    tower = TimmTower(SimpleNamespace(visual=visual.eval()))
    # the first layer of four MLPs, and queries, keys and values of the attention
    assert [type(fold.readers[0]).__name__ for fold in folds(tower)] == [
        *["Conv2d"] * 3,
        "Linear",
        "Conv2d",
    ]
    pixels = [torch.randn(2, 3, 64, 64) for _ in range(2)]
    peaks = activation_peaks(tower, pixels)
    assert [len(peak) for peak in peaks] == [32, 32, 64, 64, 64]
    other = smoothed(tower, peaks, 0.5)
    with torch.inference_mode():
        assert (tower(pixels[0]) - other(pixels[0])).abs().max() < 2e-6
    for before, after in zip(peaks, activation_peaks(other, pixels), strict=True):
        assert after.max() / after.median() < before.max() / before.median()
        assert not torch.equal(before, after)


def test_factors_by_hand(monkeypatch):
    # |x| up to 16 and 1; |w| up to 1 and 4: at one half the factors are 4 / 1 and 1 / 2.
    norm, linear = nn.LayerNorm(2), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([8.0, 3.0]))
        norm.bias.copy_(torch.tensor([4.0, 1.0]))
        linear.weight.copy_(torch.tensor([[1.0, -4.0], [-0.5, 2.0]]))
    tower = nn.ModuleList([norm, linear])
    monkeypatch.setattr(
        "tinyclip_export.quantization.smoothquant.folds",
        lambda modules: [Fold(modules[0], (modules[1],))],
    )
    other = smoothed(tower, [torch.tensor([16.0, 1.0], dtype=torch.float64)], 0.5)
    assert other[0].weight.tolist() == [2.0, 6.0]
    assert other[0].bias.tolist() == [1.0, 2.0]
    assert other[1].weight.tolist() == [[4.0, -2.0], [-2.0, 1.0]]


def test_a_channel_that_is_never_used_stays():
    norm, linear = nn.LayerNorm(2), nn.Linear(2, 1)
    fold = Fold(norm, (linear,))
    from tinyclip_export.quantization.smoothquant import _factors

    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0, 1.0]]))
    factors = _factors(fold, torch.tensor([3.0, 0.0], dtype=torch.float64), 0.5)
    assert factors.tolist() == [1.0, 1.0]


def test_smoothing_lowers_the_range_that_eight_bits_have_to_cover(toy_teacher):
    model = toy_teacher.model
    with torch.no_grad():
        model.visual.transformer.resblocks[0].ln_1.weight[5] *= 60  # an outlier channel
    tower = image_tower(model)
    inputs = inputs_of("image")
    before = activation_peaks(tower, inputs)
    after = activation_peaks(smoothed(tower, before, 0.5), inputs)
    spread = [float(np.max(p[0].numpy()) / np.median(p[0].numpy())) for p in (before, after)]
    assert spread[1] < 0.5 * spread[0]
