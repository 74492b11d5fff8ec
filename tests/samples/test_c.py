"""The C program is built without a warning, and gives a bundle's recorded answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest
from PIL import Image

from recorded_bundle import change_manifest
from tinyclip_edge import EdgeCLIP

pytestmark = pytest.mark.sample

SOURCE = Path(__file__).parents[2] / "demo/c"
LABELS = ["a red circle", "it's the cat!", "bicycle 42"]


@pytest.fixture(scope="module")
def program(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    strict = ["-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    words = [
        f"ORT_INCLUDE={tools / 'include'}", f"ORT_LIB={folder}", f"OUT={folder / 'clip'}",
        f"MORE={' '.join(strict)}",
    ]  # fmt: skip
    done = subprocess.run(
        ["make", "-C", SOURCE, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "clip"


@pytest.fixture
def run(program):
    def call(*words, precision=None):
        # onnxruntime keeps its own memory until the end.
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        if precision is not None:
            environment["CLIP_PRECISION"] = precision
        return subprocess.run(
            [str(program), *map(str, words)],
            capture_output=True, text=True, check=False, env=environment, timeout=60,
        )  # fmt: skip

    return call


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("int8", 0.999)])
def test_it_gives_the_recorded_answers(run, exported, precision, least):
    done = run(exported.folder, "--check", precision=precision)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["same_ids"] and result["precision"] == precision
    assert min(result["image"], result["text"]) >= least
    assert result["skipped_texts"] == 0


@pytest.mark.parametrize("size", [(90, 50), (20, 70), (32, 32), (6, 900)])
def test_it_classifies_as_python_does(run, exported, tmp_path, size):
    path = tmp_path / "picture.png"
    exported.pairs[0][0].resize(size, Image.Resampling.BICUBIC).save(path)
    done = run(exported.folder, path, *LABELS, precision="fp32")
    rows = [line.strip().split(" %  ") for line in done.stdout.splitlines()]
    expected = dict(EdgeCLIP.load(exported.folder, precision="fp32").classify(path, LABELS))
    assert {label: float(chance) for chance, label in rows} == pytest.approx(
        {label: 100 * chance for label, chance in expected.items()}, abs=0.06
    )


def test_it_says_what_is_wrong(run, exported, tmp_path):
    bundle = shutil.copytree(exported.folder, tmp_path / "toy")
    golden = json.loads((bundle / "manifest.json").read_text())["golden"]
    golden["embeddings"]["fp32"]["image"] = golden["embeddings"]["fp32"]["text"]
    change_manifest(bundle, golden=golden)
    assert run(bundle, "--check", precision="fp32").returncode == 3
    (tmp_path / "text.png").write_text("no picture")
    exported.pairs[0][0].save(tmp_path / "picture.png")
    for words, fault in (
        ((tmp_path, "--check"), "manifest.json cannot be read"),
        ((bundle, tmp_path / "text.png", "a", "b"), "is no PNG or JPEG"),
        ((bundle, tmp_path / "picture.png", "naïve"), "reads ASCII without & only"),
        ((bundle,), "usage: clip BUNDLE"),
    ):
        done = run(*words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and fault in done.stderr
    (bundle / "tokenizer.json").write_text("{")
    assert "is not JSON" in run(bundle, "--check").stderr
    change_manifest(bundle, towers={"image": {"int8": "../x"}, "text": {"int8": "x"}})
    shutil.copy(exported.folder / "tokenizer.json", bundle)
    assert "../x is outside the bundle" in run(bundle, "--check").stderr
