"""Pointwise convolutions as products: the same function, and what each recipe makes of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tinyclip_edge.config.preset import load_preset
from tinyclip_edge.runtime.cpu import int8_saturates
from tinyclip_edge.runtime.session import session_options
from tinyclip_export.layout import InputForm
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.onnx_passes.pointwise_products import pointwise_as_products
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe
from tinyclip_export.quantization.float_form import float_form, is_mainly_products
from tinyclip_export.quantization.fp16 import Fp16Recipe
from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.static_int8 import StaticRecipe
from tinyclip_export.quantization.weight_only import WeightOnlyRecipe
from tinyclip_export.towers.timm import TimmTower

SIZE = 64


class Scaled(nn.Module):
    """A residual feed-forward with scaled channels, and convolutions that are no products."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.up, self.down = nn.Conv2d(32, 48, 1), nn.Conv2d(48, 32, 1, bias=False)
        self.gamma = nn.Parameter(torch.linspace(-1.0, 2.0, 32)[:, None, None])
        self.strided = nn.Conv2d(32, 40, 1, stride=2)
        self.padded = nn.Conv2d(40, 40, 1, padding=1)
        self.grouped = nn.Conv2d(40, 32, 1, groups=4)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.last = nn.Conv2d(32, 8, 1)

    def forward(self, pixel_values):
        x = nn.functional.gelu(self.stem(pixel_values))
        x = x + self.gamma * self.down(nn.functional.gelu(self.up(x)))
        x = self.depthwise(self.grouped(self.padded(self.strided(x))))
        return self.last(torch.relu(x)).mean(dim=(2, 3))


def small_fastvit(patterns):
    """A FastViT as MobileCLIP2-S0's, one block a stage, after 60 steps of telling patterns apart.

    An untrained one has embeddings that hardly depend on the picture.
    """
    from timm.models.fastvit import FastVit, RepConditionalPosEnc

    trunk = FastVit(
        layers=(1, 1, 1, 1),
        embed_dims=(32, 64, 64, 128),
        mlp_ratios=(3, 3, 3, 3),
        se_downsamples=(False, False, True, True),
        pos_embs=(None, None, None, RepConditionalPosEnc),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        lkc_use_act=True,
        num_classes=len(patterns),
    )  # not channels_last, in which oneDNN aborts on AVX2 at grouped convolutions
    for name, parameter in trunk.named_parameters():
        if name.endswith("gamma"):  # 1e-5 otherwise, which takes the blocks out
            nn.init.constant_(parameter, 0.3)
    optimizer = torch.optim.AdamW(trunk.parameters(), 3e-3)
    for _ in range(60):
        classes = torch.randint(len(patterns), (16,))
        loss = nn.functional.cross_entropy(trunk(noisy(patterns[classes])), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classes = torch.arange(len(patterns))
    with torch.no_grad():
        assert (trunk.eval()(noisy(patterns)).argmax(dim=1) == classes).float().mean() > 0.8
    return TimmTower(SimpleNamespace(visual=SimpleVisual(trunk)))


def noisy(pictures):
    return pictures + 0.3 * torch.randn_like(pictures)


class SimpleVisual(nn.Module):
    """The two parts of open_clip's TimmModel."""

    def __init__(self, trunk) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Identity()


@pytest.fixture(scope="module")
def fastvit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fastvit")
    torch.manual_seed(0)
    patterns = nn.functional.interpolate(torch.randn(64, 3, 4, 4), SIZE)
    exporter.export_image_tower(small_fastvit(patterns), folder / "fp32.onnx", image_size=SIZE)
    feeds = [{"pixel_values": row.numpy()} for row in noisy(patterns).split(1)]
    return SimpleNamespace(folder=folder, source=folder / "fp32.onnx", feeds=feeds)


def run(path, feeds, *, precise=False):
    """Embed as the runtime does; ``precise``: the file's products may overflow without VNNI."""
    options = session_options(precise_int8=precise and int8_saturates())
    session = onnxruntime.InferenceSession(str(path), options)
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def cosines(tower, path, *, precise=False):
    """Compare a file with fp32 on pictures that were not calibrated on."""
    rows, right = run(path, tower.feeds[16:], precise=precise), run(tower.source, tower.feeds[16:])
    return (rows * right).sum(axis=1)


def written(tower, recipe):
    """Write a small FastViT by a recipe; return the file and its lowest cosine to fp32."""
    source = float_form(tower.source, recipe, tower.folder)
    target = tower.folder / "quantized.onnx"
    recipe.write(QuantizeJob("image", source, target, feeds=lambda: tower.feeds[:16]))
    return target, float(cosines(tower, target, precise=recipe.saturates).min())


def convolutions(path):
    """Return each convolution's name with the dimensions and the type of its weight."""
    graph = onnx.load(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    return {
        node.name: (list(weights[node.input[1]].dims), weights[node.input[1]].data_type)
        for node in graph.node
        if node.op_type == "Conv"
    }


def test_products_compute_the_same_and_others_stay(tmp_path):
    torch.manual_seed(0)
    exporter.export_image_tower(Scaled().eval(), tmp_path / "fp32.onnx", image_size=16)
    model = onnx.load(tmp_path / "fp32.onnx")
    assert pointwise_as_products(model) == ["up", "down", "last"]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "products.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == 5
    # the feed-forward enters and leaves once, and the scale is part of its weights
    assert (operators.count("Transpose"), operators.count("Mul")) == (4, 0)
    for batch in (1, 3):
        feeds = [{"pixel_values": np.random.default_rng(0).random((batch, 3, 16, 16), np.float32)}]
        right, actual = (run(tmp_path / f"{name}.onnx", feeds) for name in ("fp32", "products"))
        np.testing.assert_allclose(actual, right, atol=1e-6)


def test_static_products_stay_integer_where_the_batch_is_fixed(tmp_path):
    torch.manual_seed(0)
    source, form = tmp_path / "fp32.onnx", InputForm(batch=2)
    exporter.export_image_tower(Scaled().eval(), source, image_size=16, form=form)
    recipe = StaticRecipe()
    feeds = [{"pixel_values": np.random.default_rng(0).random((2, 3, 16, 16), np.float32)}]
    products = float_form(source, recipe, tmp_path)
    recipe.write(QuantizeJob("image", products, tmp_path / "int8.onnx", feeds=lambda: feeds))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert (operators.count("MatMulIntegerToFloat"), operators.count("Gemm")) == (3, 0)


def test_few_channels_stay_a_convolution(tmp_path):
    torch.manual_seed(0)
    exporter.export_image_tower(Scaled().eval(), tmp_path / "fp32.onnx", image_size=16)
    assert pointwise_as_products(onnx.load(tmp_path / "fp32.onnx"), 33) == ["up", "down"]


@pytest.mark.slow
def test_which_recipes_take_products(fastvit, tmp_path):
    for recipe in (Int8Recipe(), StaticRecipe(), WeightOnlyRecipe()):
        assert float_form(fastvit.source, recipe, tmp_path) != fastvit.source
    assert float_form(fastvit.source, Fp16Recipe(), tmp_path) == fastvit.source
    # Its pointwise convolution is wider than the first one, so no part of the stem.
    layers = (nn.Conv2d(3, 32, 3), nn.ReLU(), Sum(), nn.Conv2d(32, 64, 1))
    exporter.export_image_tower(nn.Sequential(*layers), tmp_path / "resnet.onnx", image_size=12)
    source = tmp_path / "resnet.onnx"
    assert float_form(source, StaticRecipe(), tmp_path) == source  # integers throughout
    assert float_form(source, Int8Recipe(), tmp_path) != source


@pytest.mark.slow
def test_which_towers_are_mainly_products(fastvit, tmp_path):
    assert is_mainly_products(fastvit.source)
    # 32 x 48 + 48 x 32 + 32 x 8 weights of products; other convolutions that static int8 quantizes
    # have 32 x 40 and 40 x 40, and the others few products per output
    exporter.export_image_tower(Scaled().eval(), tmp_path / "scaled.onnx", image_size=16)
    assert not is_mainly_products(tmp_path / "scaled.onnx")
    resnet = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), Sum(), nn.Conv2d(32, 8, 1))
    exporter.export_image_tower(resnet, tmp_path / "resnet.onnx", image_size=12)
    assert not is_mainly_products(tmp_path / "resnet.onnx")


class Sum(nn.Module):
    """A residual block of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(32, 32, 1)

    def forward(self, x):
        return torch.relu(self.inner(x) + x)


@pytest.mark.parametrize(
    ("recipe", "least"),
    [
        (Int8Recipe(), 0.999),
        (Int8Recipe(**load_preset("x86-vnni-single").int8.model_dump()), 0.999),
        (Int8Recipe(weights="uint8", weight_range="8 bit"), 0.998),
        (StaticRecipe(), 0.998),
    ],
    ids=["dynamic", "single", "uint8", "static"],
)
@pytest.mark.slow
def test_int8_of_a_fastvit_is_near_and_leaves_depthwise_convolutions_float(fastvit, recipe, least):
    target, cosine = written(fastvit, recipe)
    assert cosine > least
    left, before = convolutions(target), convolutions(fastvit.source)
    assert {kind for _, kind in left.values()} == {onnx.TensorProto.FLOAT}
    pointwise = {name for name, (dims, _) in before.items() if dims[2:] == [1, 1]}
    stem = {name for name in pointwise if "stem" in name}
    # two of four MLPs, three of the downsampling, two of each gate; rounding in the stem costs most
    assert (len(stem), len(pointwise)) == (1, 18)
    expected = set(before) - pointwise
    assert set(left) == (expected if isinstance(recipe, StaticRecipe) else expected | stem)
    assert target.stat().st_size < 0.45 * fastvit.source.stat().st_size


@pytest.mark.slow
def test_dynamic_products_are_nearer_than_static_convolutions(fastvit):
    convolution = fastvit.folder / "convolution.onnx"
    job = QuantizeJob("image", fastvit.source, convolution, feeds=lambda: fastvit.feeds[:16])
    StaticRecipe().write(job)  # on the graph as it is, without products
    errors = [
        1 - cosines(fastvit, path).mean()
        for path in (written(fastvit, Int8Recipe())[0], convolution)
    ]
    assert errors[0] < 0.5 * errors[1], errors


@pytest.mark.slow
def test_four_bits_of_a_fastvit_are_a_small_file(fastvit):
    target, cosine = written(fastvit, WeightOnlyRecipe())
    assert cosine > 0.9
    assert target.stat().st_size < 0.4 * fastvit.source.stat().st_size
