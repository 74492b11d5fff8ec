"""onnxruntime's providers for OpenVINO and WebGPU run a bundle, and say what they leave to the CPU.

`make devices` runs it: each comes with its own build of onnxruntime, in an environment of its own.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP, load_clip
from tinyclip_edge.api import check
from tinyclip_edge.errors import DeviceError
from tinyclip_export import export_bundle

pytestmark = pytest.mark.provider

TEXTS = ["a photo of the cat", "red bicycle", "the blue square of a dog"]
NAMES = {"openvino": "OpenVINOExecutionProvider", "webgpu": "WebGpuExecutionProvider"}


def pictures(count):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def bundle(toy_teacher_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices") / "toy"
    texts = [f"{text} {words}".strip() for words in ("", "photo", "circle", "a") for text in TEXTS]
    export_bundle(
        load_clip(str(toy_teacher_folder)),
        folder,
        pairs=(pictures(len(texts)), texts),
        max_drop=100.0,
    )
    return folder


@pytest.fixture(scope="module")
def device():
    """The one that this environment is for."""
    (name,) = (name for name, full in NAMES.items() if full in ort.get_available_providers())
    return name


def test_the_whole_float_model_runs_on_it(bundle, device):
    clip = EdgeCLIP.load(bundle, device=device)
    assert clip.precision == "fp32"  # not the default int8, which these providers slow down
    for tower in ("image", "text"):
        place = clip.placement[tower]
        # A few shapes are computed on the CPU; what is compiled counts once.
        assert place.nodes > 10 * place.cpu_nodes and "MatMul" not in place.cpu_operators
    images = pictures(3)
    reference = EdgeCLIP.load(bundle, precision="fp32")
    for encode, items in (("encode_image", images), ("encode_text", TEXTS)):
        there, here = getattr(clip, encode)(items), getattr(reference, encode)(items)
        np.testing.assert_allclose((there * here).sum(axis=1), 1, atol=1e-4)


def test_int8_is_proven_and_what_it_leaves_to_the_cpu_is_told(bundle, device):
    result = check(bundle, precision="int8", device=device)
    assert result.passed, result.failures
    (replayed,) = result.replays
    left = sum(each.cpu_nodes for each in replayed.placement.values())
    assert left == 0 if device == "openvino" else left > 10  # WebGPU has no int8 products
    assert replayed.as_dict()["placement"]["image"]["device"] == device


def test_openvino_takes_its_options(bundle):
    clip = EdgeCLIP.load(bundle, device="openvino", device_options={"device_type": "CPU"})
    assert clip.encode_text(TEXTS).shape == (3, 64)
    # Its provider gives way to the CPU without a word.
    with pytest.raises(DeviceError, match=r"all \d+ nodes ran on the CPU"):
        EdgeCLIP.load(bundle, device="openvino", device_options={"device_type": "TOASTER"})


def test_other_answers_than_recorded_are_refused(bundle, device, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(bundle, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    embeddings = manifest["golden"]["embeddings"]
    embeddings["fp32"]["image"] = embeddings["fp32"]["text"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        DeviceError, match=rf"device {device} computes other embeddings .* \(golden image"
    ):
        EdgeCLIP.load(folder, device=device)
