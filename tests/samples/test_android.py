"""The Android application's tokenizer and pictures, on Java's virtual machine."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import InferenceSession
from PIL import Image

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.runtime.images import open_image

pytestmark = [pytest.mark.sample, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
CODE = HERE.parents[1] / "demo/android/app/src/main/java/com/example/tinyclipedge"
ORG_JSON = "/usr/share/java/json-android.jar"  # Android's own classes of that name
TEXTS = [
    "a photo of the cat", "Bicycles, 42 & I'm", "it's THE  dog's\tbed!?", "naïve 日 🎉", "",
    "don’t “say”", "ſ'ſ a\u0345b", "½ ² ٣", "word " * 40, "e\u0301clair",
]  # fmt: skip


@pytest.fixture(scope="module")
def program(tools, tmp_path_factory):
    """All but the page, whose classes are Android's."""
    jar = tmp_path_factory.mktemp("kotlin") / "app.jar"
    names = ("Tokenizer.kt", "Picture.kt", "Clip.kt")
    sources = [*(CODE / name for name in names), HERE / "Onnxruntime.kt", HERE / "CheckInputs.kt"]
    words = [tools / "kotlin/bin/kotlinc", *sources, "-cp", ORG_JSON, "-include-runtime"]
    done = subprocess.run(
        ["bash", *words, "-Werror", "-d", jar], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return jar


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number, shape in enumerate([(50, 90, 3), (7, 5, 4), (900, 6, 3), (3, 3, 4)]):
        pixels = random.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def answer(program, bundle, pictures):
    asked = {"folder": str(bundle), "texts": TEXTS, "pictures": list(map(str, pictures))}
    done = subprocess.run(
        ["java", "-cp", f"{program}:{ORG_JSON}", "com.example.tinyclipedge.CheckInputsKt"],
        input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_token_ids_are_pythons(answer, bundle):
    clip = EdgeCLIP.load(bundle)
    for text, ids in zip(TEXTS, answer["ids"], strict=True):
        assert ids == clip.token_ids(text), text


def test_its_bytes_give_the_golden_vectors(answer, bundle):
    """Of the graph that Clip.kt runs: onnxruntime's own Java library is not here."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    session = InferenceSession(bundle / manifest["extras"]["uint8"]["files"]["fp32"])
    golden = manifest["golden"]
    recorded = np.frombuffer(base64.b64decode(golden["embeddings"]["fp32"]["image"]), "<f4")
    for entry, text, row in zip(
        golden["images"], answer["golden"], recorded.reshape(len(golden["images"]), -1), strict=True
    ):
        pixels = np.frombuffer(base64.b64decode(text), np.uint8)
        shape = np.array(Image.open(io.BytesIO(base64.b64decode(entry["png"])))).shape
        (embedding,) = session.run(None, {"image": pixels.reshape(*shape[:2], 3)})
        assert float(embedding[0] @ row) >= 0.9999


def test_pixels_are_pythons(answer, pictures):
    for path, text in zip(pictures, answer["pixels"], strict=True):
        assert base64.b64decode(text) == open_image(path).tobytes(), path.name
