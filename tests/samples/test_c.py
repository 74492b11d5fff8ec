"""The C program is built without a warning, and gives a bundle's recorded answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from recorded_bundle import change_manifest
from tinyclip_edge import EdgeCLIP
from toy_export import toy_pairs

pytestmark = pytest.mark.sample

SOURCE = Path(__file__).parents[2] / "demo/c"
LABELS = ["a red circle", "it's the cat!", "naïve &amp; bicycle 42"]


@pytest.fixture(scope="module")
def program(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    strict = ["-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    # The extensions' library of Python's package has symbols of Python.
    python, home = sysconfig.get_config_vars("LDVERSION", "LIBDIR")
    strict += ["-Wl,--no-as-needed", f"-L{home}", f"-lpython{python}", f"-Wl,-rpath,{home}"]
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
    from onnxruntime_extensions import get_library_path

    def call(*words, precision="fp32", extensions=None):
        environment = {
            **os.environ,
            # onnxruntime keeps its own memory until the end.
            "ASAN_OPTIONS": "detect_leaks=0",
            "ORT_EXTENSIONS": extensions or get_library_path(),
            "CLIP_PRECISION": precision,
        }
        return subprocess.run(
            [str(program), *map(str, words)],
            capture_output=True, text=True, check=False, env=environment, timeout=60,
        )  # fmt: skip

    return call


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_gives_the_recorded_answers(run, bundle, precision):
    done = run(bundle, "--check", precision=precision)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["same_ids"] and result["precision"] == precision
    assert min(result["image"], result["text"]) >= 0.999


@pytest.mark.parametrize("size", [(90, 50), (20, 70), (32, 32), (6, 900)])
def test_it_classifies_as_python_does(run, bundle, tmp_path, size):
    path = tmp_path / "picture.png"
    toy_pairs()[0][0].resize(size, Image.Resampling.BICUBIC).save(path)
    _same_answers(run(bundle, path, *LABELS), bundle, path)


def test_transparency_is_white_as_in_python(run, bundle, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    _same_answers(run(bundle, path, *LABELS), bundle, path)


def _same_answers(done, bundle, path):
    assert done.returncode == 0, done.stderr
    rows = [line.strip().split(" %  ") for line in done.stdout.splitlines()]
    expected = dict(EdgeCLIP.load(bundle, precision="fp32").classify(path, LABELS))
    assert {label: float(chance) for chance, label in rows} == pytest.approx(
        {label: 100 * chance for label, chance in expected.items()}, abs=0.15
    )


def test_it_says_what_is_wrong(run, bundle, exported, tmp_path):
    broken = shutil.copytree(bundle, tmp_path / "toy")
    (tmp_path / "text.png").write_text("no picture")
    toy_pairs()[0][0].save(tmp_path / "picture.png")
    Image.new("RGB", (2, 2001)).save(tmp_path / "thin.png")
    for words, fault in (
        ((tmp_path, "--check"), "manifest.json cannot be read"),
        ((exported.folder, "--check"), "use export --embed-tokenizer --embed-preprocessing"),
        ((bundle, tmp_path / "text.png", "a", "b"), "is not a PNG or JPEG"),
        ((bundle, tmp_path / "thin.png", "a", "b"), "is too long and thin"),
        ((bundle,), "usage: clip BUNDLE"),
    ):
        done = run(*words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and fault in done.stderr
    assert "no-library.so" in run(bundle, "--check", extensions="no-library.so").stderr
    vectors = json.loads((broken / "golden/vectors.json").read_text())
    rows = vectors["embeddings"]["fp32"]
    rows["text"] = rows["text"][::-1]
    (broken / "golden/vectors.json").write_text(json.dumps(vectors))
    assert run(broken, "--check").returncode == 3
    del rows["text"][1:]
    (broken / "golden/vectors.json").write_text(json.dumps(vectors))
    assert "a golden vector does not have" in run(broken, "--check").stderr
    (broken / "golden/vectors.json").write_text("{")
    assert "is not JSON" in run(broken, "--check").stderr
    change_manifest(broken, extras={"strings": {"files": {"fp32": "../x"}}})
    assert "../x is outside the bundle" in run(broken, "--check").stderr
