"""Hugging Face's optimum beside ours: its quantizer gives our bytes, its classes open our bundles.

`make optimum` runs it: optimum-onnx goes with transformers 4 alone, all else here with 5.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from tinyclip_edge.models import load_clip
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_export import export_bundle
from tinyclip_export.quantization.dynamic_int8 import (
    Int8Recipe,
    products_of_activations,
    quantize_dynamically,
)
from tinyclip_export.quantization.qdq_residual import quantized_kinds
from tinyclip_export.quantization.static_int8 import measure_ranges

pytestmark = pytest.mark.optimum

TEXTS = ["a photo of the cat", "red bicycle", "the blue square of a dog"]


def pictures(count=6):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def clip(toy_teacher_folder):
    return load_clip(str(toy_teacher_folder))


@pytest.fixture(scope="module")
def bundle(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimum") / "toy"
    texts = [f"{text} {words}".strip() for words in ("", "photo", "circle", "a") for text in TEXTS]
    export_bundle(clip, folder, pairs=(pictures(len(texts)), texts), max_drop=100.0)
    return folder


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
@pytest.mark.parametrize(
    "recipe",
    [
        Int8Recipe(),
        Int8Recipe(weight_range="8 bit"),
        Int8Recipe(weights="uint8", weight_range="8 bit"),
        Int8Recipe(weights="uint8", weight_range="7 bit"),
    ],
    ids=["overflow_safe", "8 bit", "uint8", "uint8 7 bit"],
)
def test_its_quantizer_gives_the_same_bytes(bundle, tmp_path, tower, recipe):
    from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import QuantizationConfig

    source = bundle / "onnx" / f"{tower}.onnx"
    exclude = products_of_activations(source)
    config = QuantizationConfig(
        is_static=False,
        format=QuantFormat.QOperator,
        mode=QuantizationMode.IntegerOps,
        weights_dtype=QuantType.QInt8 if recipe.weights == "int8" else QuantType.QUInt8,
        per_channel=True,
        reduce_range=recipe.weight_range != "8 bit",
        operators_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=exclude,
    )
    theirs = ORTQuantizer(source).quantize(config, save_dir=tmp_path, file_suffix="theirs")
    ours = tmp_path / "ours.onnx"
    onnx.save_model(quantize_dynamically(onnx.load(str(source)), recipe, exclude), str(ours))
    written = (tmp_path / f"{tower}_theirs.onnx").read_bytes()
    assert b"MatMulInteger" in written
    assert ours.read_bytes() == written
    assert theirs is not None


class Rows(list):
    """What ORTQuantizer reads of a datasets.Dataset."""

    info = SimpleNamespace(builder_name="toy", config_name="default")
    split, num_rows = "calibration", 6


def test_its_calibration_gives_the_same_ranges(bundle, clip, tmp_path):
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig

    source = bundle / "onnx" / "vision_model.onnx"
    rows = [clip.preprocess(image).numpy() for image in pictures()]
    dataset = Rows([{"pixel_values": row} for row in rows])
    theirs = ORTQuantizer(source).fit(
        dataset=dataset,
        calibration_config=AutoCalibrationConfig.minmax(dataset),
        onnx_augmented_model_name=str(tmp_path / "augmented.onnx"),
        operators_to_quantize=(kinds := list(quantized_kinds(onnx.load(str(source))))),
    )
    feeds = ({"pixel_values": row[None]} for row in rows)
    ours = measure_ranges(source, tmp_path, lambda: feeds, kinds)
    assert set(ours.keys()) == set(theirs.keys())
    assert len(list(ours.keys())) > 20
    for name, values in ours.items():
        assert values.range_value == theirs[name].range_value


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_its_model_classes_open_a_bundle(bundle, clip, precision):
    from optimum.onnxruntime import ORTModelForCustomTasks, ORTModelForZeroShotImageClassification

    suffix = {"fp32": "", "int8": "_quantized"}[precision]
    ours = EdgeCLIP.load(bundle, precision=precision)
    tokens = AutoTokenizer.from_pretrained(bundle)(["a photo of the cat"], return_tensors="pt")
    pixels = clip.preprocess(pictures(1)[0])[None]
    image, text = ours.encode_image(pictures(1)), ours.encode_text(["a photo of the cat"])
    for stem, inputs, reference in (
        ("vision_model", {"pixel_values": pixels}, {"image_embeds": image}),
        ("text_model", {"input_ids": tokens.input_ids}, {"text_embeds": text}),
    ):
        tower = ORTModelForCustomTasks.from_pretrained(
            bundle, subfolder="onnx", file_name=f"{stem}{suffix}.onnx"
        )
        for name, features in reference.items():
            np.testing.assert_allclose(tower(**inputs)[name].numpy(), features, atol=1e-6)
    both = ORTModelForZeroShotImageClassification.from_pretrained(
        bundle, subfolder="onnx", file_name=f"model{suffix}.onnx"
    )(pixel_values=pixels, **tokens)
    scale = EdgeCLIP.load(bundle, precision=precision).logit_scale
    expected = torch.from_numpy(scale * image @ text.T)
    torch.testing.assert_close(both.logits_per_image, expected, rtol=0, atol=1e-4)
