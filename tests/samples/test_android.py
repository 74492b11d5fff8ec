"""The Android application's tokenizer and preprocessing, on Java's virtual machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.runtime.golden import pixels_hash

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
    names = ("Tokenizer.kt", "Preprocess.kt", "Clip.kt")
    sources = [*(CODE / name for name in names), HERE / "Onnxruntime.kt", HERE / "CheckInputs.kt"]
    words = [tools / "kotlin/bin/kotlinc", *sources, "-cp", ORG_JSON, "-include-runtime"]
    done = subprocess.run(
        ["bash", *words, "-Werror", "-d", jar], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return jar


@pytest.fixture(scope="module")
def pictures(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate([(90, 50), (20, 70), (32, 32), (6, 900), (3, 3), (257, 31)]):
        picture = exported.pairs[0][0].resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def answer(program, exported, pictures):
    asked = {"folder": str(exported.folder), "texts": TEXTS, "pictures": list(map(str, pictures))}
    done = subprocess.run(
        ["java", "-cp", f"{program}:{ORG_JSON}", "com.example.tinyclipedge.CheckInputsKt"],
        input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_token_ids_are_pythons(answer, exported):
    clip = EdgeCLIP.load(exported.folder)
    for text, ids in zip(TEXTS, answer["ids"], strict=True):
        assert ids == clip.token_ids(text), text


def test_golden_pixels_are_equal_to_the_bit(answer, exported):
    golden = json.loads((exported.folder / "manifest.json").read_text())["golden"]
    assert answer["golden"] == [entry["pixels_sha256"] for entry in golden["images"]]


def test_pixels_of_any_size_are_pythons_to_the_bit(answer, exported, pictures):
    clip = EdgeCLIP.load(exported.folder)
    assert answer["pixels"] == [pixels_hash(clip.preprocess(path)) for path in pictures]
