"""When the int8 file of an image tower of convolutions is its float tower, and what is said."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.errors import ModelError
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_export import stages
from tinyclip_export.float_choice import float_notes, why_float, with_float_images
from tinyclip_export.quantization.float32 import FloatRecipe
from tinyclip_export.quantization.mixed_precision import MixedPrecision
from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.registry import recipe_dicts, recipes_for
from tinyclip_export.verification.embeddings import TimedEmbeddings

PRESET = ExportPreset()


def embeddings(cosine, ms=10.0, float_ms=20.0, *, convolutional=False):
    """Forty images at this cosine to the first axis, and as many texts on it."""
    rows = np.zeros((40, 3), np.float32)
    rows[:, 0], rows[:, 1] = cosine, np.sqrt(1 - cosine**2)
    text = np.eye(3, dtype=np.float32)[[0] * 40]
    times = {"image": ms, "text": 1.0}, {"image": float_ms, "text": 1.0}
    return TimedEmbeddings(rows, text, *times, convolutional=convolutional)


@pytest.mark.parametrize(
    ("cosine", "ms", "float_ms", "reason"),
    [
        (0.997, 10.0, 20.0, None),
        (0.990, 10.0, 20.0, "int8 image values: cosine 0.99000 is below 0.995"),
        (0.997, 20.5, 20.0, None),  # within noise
        (
            0.997,
            30.0,
            20.0,
            "int8 image is slower than fp32 on this machine: 30.00 against 20.00 ms",
        ),
        (0.997, 3.0, 2.0, None),  # too short to tell
    ],
)
def test_what_keeps_a_tower_float(cosine, ms, float_ms, reason):
    assert why_float("int8", embeddings(1.0), embeddings(cosine, ms, float_ms)) == reason


class Writer:
    """Writes as the towers' writer does, from a file of the folder."""

    def __init__(self, folder):
        self.source = folder / "fp32-image"
        self.source.write_bytes(b"float weights")

    def write(self, tower, recipe, target):
        recipe.write(QuantizeJob(tower, self.source, target))


@pytest.fixture
def job(tmp_path):
    def paths(precision):
        return {tower: tmp_path / f"{precision}-{tower}" for tower in ("image", "text")}

    for precision in ("int8", "uint8", "static"):
        for path in paths(precision).values():
            path.write_bytes(b"integers")
    return SimpleNamespace(paths=paths)


def chosen(job, tmp_path, cosines, *, convolutional=True):
    recipes = {name: recipes_for(name, PRESET, convolutional=convolutional) for name in cosines}
    measured = {name: embeddings(cosine) for name, cosine in cosines.items()}
    measured["fp32"] = embeddings(1.0, 20.0)
    reference = embeddings(1.0, convolutional=convolutional)
    towers = SimpleNamespace(writer=Writer(tmp_path))
    return with_float_images(job, towers, recipes, reference, measured), measured


def test_the_float_file_takes_the_place_of_one_precision_and_is_said(job, tmp_path):
    recipes, measured = chosen(job, tmp_path, {"int8": 0.9, "uint8": 0.999, "static": 0.9})
    assert job.paths("int8")["image"].read_bytes() == b"float weights"
    assert job.paths("int8")["text"].read_bytes() == b"integers"
    for precision in ("uint8", "static"):  # one is near enough, the other was required by name
        assert job.paths(precision)["image"].read_bytes() == b"integers"
    np.testing.assert_array_equal(measured["int8"].image, measured["fp32"].image)
    assert measured["int8"].milliseconds == {"image": 20.0, "text": 1.0}
    (note,) = float_notes(recipes)
    assert note == (
        "the int8 file of the image tower is float, a copy of fp32: int8 image values: cosine "
        "0.90000 is below 0.995"
    )


def test_transformers_are_judged_by_the_gates_alone(job, tmp_path):
    recipes, _ = chosen(job, tmp_path, {"int8": 0.9}, convolutional=False)
    assert float_notes(recipes) == []
    assert job.paths("int8")["image"].read_bytes() == b"integers"


def test_the_manifest_says_that_it_is_float_and_why(job, tmp_path):
    recipes, _ = chosen(job, tmp_path, {"int8": 0.9})
    searched = MixedPrecision({"image": 0.5, "text": 0.3}, {"image": ("stem",)})
    settings = recipe_dicts(recipes, ("int8",), {"int8": searched})["int8"]
    assert (settings["kind"], settings["image"]["kind"]) == ("dynamic", "float")
    assert "cosine 0.90000" in settings["image"]["reason"]
    # the search was of a tower that is not there
    assert settings["smooth"] == {"image": 0.0, "text": 0.3}
    assert settings["keep_float"] == {"image": [], "text": []}
    manifest = SimpleNamespace(recipe={"int8": settings})
    assert Manifest.saturates(manifest, "image", "int8") is False
    assert FloatRecipe("slow").operators == ()


def test_four_bits_of_large_convolutions_are_refused_in_one_line(tmp_path):
    def paths(precision):
        return {"image": tmp_path / precision}

    for precision, size in (("fp32", 1000), ("q4", 640), ("w8", 500)):
        (tmp_path / precision).write_bytes(bytes(size))
    job = SimpleNamespace(paths=paths)
    stages._check_size(job, "w8")
    with pytest.raises(ModelError) as refusal:
        stages._check_size(job, "q4")
    assert str(refusal.value) == (
        "q4: the image tower keeps 64% of its fp32 bytes, because its convolutions larger than 1x1 "
        "stay float in this precision; use --int8"
    )
