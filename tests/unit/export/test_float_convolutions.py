"""Static int8 of a tower that is not integer throughout: which convolutions stay float."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tinyclip_export.onnx_passes import exporter
from tinyclip_export.quantization.qdq_residual import float_convolutions, is_integer_throughout
from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.static_int8 import StaticRecipe
from tinyclip_export.quantization.tower_writer import TowerWriter

RANDOM = np.random.default_rng(5)


class MixedTower(nn.Module):
    """Stem, depthwise and pointwise convolutions with GELU between, as FastViT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)  # 27 products an output
        self.depthwise = nn.Conv2d(32, 32, 7, padding=3, groups=32)  # 49
        self.grouped = nn.Conv2d(32, 64, 3, padding=1, groups=8)  # 36
        self.wide = nn.Conv2d(64, 32, 1)  # 64
        self.spatial = nn.Conv2d(32, 32, 3, padding=1)  # 288
        self.narrow = nn.Conv2d(32, 16, 1)  # 32
        self.few = nn.Conv2d(16, 24, 1)  # 16

    def forward(self, pixel_values):
        x = pixel_values
        for layer in self.children():
            x = nn.functional.gelu(layer(x))
        return x.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(2)
    model = MixedTower().eval()
    with torch.no_grad():  # channels of very different ranges, which one scale serves badly
        model.stem.weight.mul_(torch.logspace(-1.5, 1, 32)[torch.randperm(32), None, None, None])
    return model


@pytest.fixture(scope="module")
def folder(tower, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    exporter.export_image_tower(tower, folder / "fp32.onnx", image_size=12)
    job = QuantizeJob("image", folder / "fp32.onnx", folder / "int8.onnx", feeds=lambda: feeds(16))
    StaticRecipe().write(job)
    return folder


def feeds(count):
    draws = RANDOM.standard_normal((count, 1, 3, 12, 12)).astype(np.float32)
    return [{"pixel_values": draw} for draw in draws]


def in_integers(path):
    """Name the convolutions that read an integer weight."""
    graph = onnx.load(path).graph
    restored = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 7
    return [node.name for node in convolutions if node.input[1] in restored]


def test_depthwise_grouped_and_small_convolutions_stay_float(folder):
    assert in_integers(folder / "int8.onnx") == ["wide", "spatial", "narrow"]
    model = onnx.load(folder / "fp32.onnx")
    assert float_convolutions(model) == ["stem", "depthwise", "grouped", "few"]


def test_the_mixed_tower_is_nearer_for_it(folder, tower, monkeypatch):
    from tinyclip_export.quantization import static_int8

    monkeypatch.setattr(static_int8, "float_convolutions", lambda model: [])
    integer = folder / "whole.onnx"
    job = QuantizeJob("image", folder / "fp32.onnx", integer, feeds=lambda: feeds(16))
    StaticRecipe().write(job)
    assert len(in_integers(integer)) == 7
    inputs = [feed["pixel_values"] for feed in feeds(8)]
    with torch.no_grad():
        right = torch.cat([tower(torch.from_numpy(one)) for one in inputs]).numpy()
    errors = []
    for path in (folder / "int8.onnx", integer):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        actual = np.concatenate([session.run(None, {"pixel_values": one})[0] for one in inputs])
        errors.append(float(np.linalg.norm(actual - right) / np.linalg.norm(right)))
    assert errors[0] < 0.5 * errors[1], errors


def test_a_search_does_not_rank_what_stays_float(folder, tower, tmp_path):
    source = folder / "fp32.onnx"
    writer = TowerWriter(
        {"image": tower}, {"image": source}, tmp_path, image_size=12, form=None, calibration=None
    )
    assert writer.layers("image", StaticRecipe()) == ["wide", "spatial", "narrow"]


def test_a_tower_of_integers_keeps_its_means_of_neighbours(folder):
    """A ResNet's strides are grouped convolutions of quarters: they stay in integers."""
    model = torch.nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 2, 2, groups=8, bias=False), Block()
    )
    path = folder / "resnet.onnx"
    exporter.export_image_tower(model, path, image_size=12)
    graph = onnx.load(path)
    assert is_integer_throughout(graph)
    assert float_convolutions(graph) == []


class Block(nn.Module):
    """One convolution, a sum around it, and what reads the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = nn.functional.relu(x)
        return self.last(nn.functional.relu(self.inner(x) + x))
