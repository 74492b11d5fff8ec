"""Labels of an exported classifier, and files whose names must not meet."""

import itertools

import numpy as np
import pytest

from tinyclip_edge.errors import DataError
from tinyclip_edge.models import TorchEmbedder
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.classifier import EdgeClassifier
from tinyclip_edge.runtime.label_calibration import HeldOut
from tinyclip_edge.runtime.prompts import check_prompts
from tinyclip_export import export_bundle
from tinyclip_export.bundle.encoded_image_tower import encoded_tower_path
from tinyclip_export.bundle.label_classifier import classifier_path
from tinyclip_export.bundle.pipeline_file import combined_path
from tinyclip_export.bundle.string_text_tower import string_tower_path
from tinyclip_export.bundle.uint8_image_tower import pixel_tower_path
from tinyclip_export.layout import IMAGE_IO, TEXT_IO
from tinyclip_export.settings import ExportSettings, Extras

LONG = "a photo of the red bicycle " * 4  # 24 words, the toy's context has room for 14


def test_no_file_of_one_kind_and_precision_has_the_name_of_another():
    kinds = (
        IMAGE_IO.path, TEXT_IO.path, combined_path, classifier_path, pixel_tower_path,
        string_tower_path, encoded_tower_path,
    )  # fmt: skip
    paths = [kind(precision) for kind, precision in itertools.product(kinds, PRECISIONS)]
    assert len(set(paths)) == len(kinds) * len(PRECISIONS)


def test_labels_that_the_context_makes_equal_are_refused_before_any_work(exported, tmp_path):
    extras = Extras(labels=(f"{LONG} dog", f"{LONG} cat"))
    with pytest.raises(DataError, match="are the same after truncation to the model's 16 tokens"):
        export_bundle(
            exported.clip,
            tmp_path / "out",
            pairs=exported.pairs,
            settings=ExportSettings(extras=extras),
        )
    assert list(tmp_path.iterdir()) == []


def test_torch_model_and_bundle_cut_the_same_texts(exported):
    from tinyclip_edge import EdgeCLIP

    models = TorchEmbedder(exported.clip), EdgeCLIP.load(exported.folder)
    texts = [
        " ".join(["cat"] * 14), " ".join(["cat"] * 15), "zebra", "extraordinarily", "",
        "naïve " * 5, "&amp; " * 14, "&amp; " * 15, "日" * 5, "a photo of the cat",
    ]  # fmt: skip
    cut = [[not model.fits_context(text) for text in texts] for model in models]
    # Counted by hand: 14 words and two marks are 16 tokens; letters of no known word count alone.
    assert cut[1] == [False, True, False, True, False, True, False, True, True, False]
    assert cut[0] == cut[1]


def noise_pictures(count):
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.slow
def test_uint8_precision_stands_beside_towers_that_take_pixels(exported, tmp_path):
    extras = Extras(labels=("dog", f"{LONG} cat"), embed_preprocessing=True)
    out, lines = tmp_path / "out", []
    report = export_bundle(
        exported.clip,
        out,
        precisions=("fp32", "uint8"),
        pairs=exported.pairs,
        max_drop=100.0,
        settings=ExportSettings(
            extras=extras,
            search=False,
            held_out=HeldOut.by_teacher(
                TorchEmbedder(exported.clip), noise_pictures(60), extras.labels
            ),
            notify=lines.append,
        ),
    )
    entry = Manifest.read(out).confidence
    assert entry["labelled_by"] == exported.clip.name and entry["images"] == 60
    assert set(entry["precisions"]) == {"fp32", "uint8"} and "calibrate" in report.seconds
    assert entry["precisions"]["fp32"]["accuracy"] == 1
    assert any(line.startswith("uint8: below ") for line in lines)
    assert any("1 of 2 prompts are longer than the model's 16 tokens" in w for w in report.warnings)
    manifest = Manifest.read(out)
    manifest.verify_files(out)
    tower, pixel_tower = (
        manifest.towers["image"]["uint8"],
        manifest.extras["uint8"]["files"]["uint8"],
    )
    assert tower == "onnx/vision_model_uint8.onnx" and pixel_tower != tower
    assert min(manifest.extras["uint8"]["cosine_min"].values()) > 0.999
    chances = EdgeClassifier.load(out, precision="uint8").probabilities(exported.pairs[0][:2])
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert check_prompts(TorchEmbedder(exported.clip), ["dog", "cat"]) == ()
