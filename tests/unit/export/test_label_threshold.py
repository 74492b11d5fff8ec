"""An exported bundle that knows when its answer is none."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.api.held_out import held_out_images
from tinyclip_edge.errors import BundleError, DataError, ModelError
from tinyclip_edge.models import TorchEmbedder
from tinyclip_edge.runtime.bundle import Manifest, list_files
from tinyclip_edge.runtime.classifier import EdgeClassifier
from tinyclip_edge.runtime.confidence import CALIBRATED
from tinyclip_edge.runtime.label_calibration import HeldOut, calibrate_bundle
from tinyclip_export.bundle.label_classifier import write_classifiers

LABELS = ("red dog", "blue bicycle", "a photo of a square")


def pictures(count):
    random = np.random.default_rng(0)
    colours = random.integers(0, 255, (count, 3))
    return [Image.new("RGB", (32, 32), tuple(map(int, colour))) for colour in colours]


def test_classifier_and_towers_turn_the_same_pictures_away(exported, tmp_path):
    images, out = pictures(60), tmp_path / "out"
    shutil.copytree(exported.folder, out)
    files = write_classifiers(
        exported.clip, out, {"fp32": False, "int8": False}, labels=LABELS, templates=("{}",)
    )
    manifest = replace(Manifest.read(out), extras={"classifier": files}, files=list_files(out))
    manifest.write(out)
    calibrate_bundle(out, HeldOut.by_teacher(TorchEmbedder(exported.clip), images, LABELS))
    clip, classifier = (kind.load(out, precision="fp32") for kind in (EdgeCLIP, EdgeClassifier))
    assert clip.confidence == classifier.confidence and clip.confidence is not None
    for image in images[:12]:
        whole = clip.classify(image, LABELS, threshold=CALIBRATED)
        baked = classifier.classify(image, threshold=CALIBRATED)
        assert dict(baked) == pytest.approx(dict(whole), abs=1e-4)
        assert baked.unknown == whole.unknown
    file = out / "onnx" / "classifier.onnx"
    alone = EdgeClassifier.load(file)
    assert alone.classify(images[0]).unknown is None
    assert alone.classify(images[0], threshold=0.999).unknown is True
    with pytest.raises(BundleError, match="has no calibrated threshold"):
        alone.classify(images[0], threshold=CALIBRATED)


def saved(folder, names):
    for name in names:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path)
    return folder


def test_class_folders_are_labels(tmp_path):
    folder = saved(tmp_path / "held", [f"{name}/{n}" for name in ("dog", "cat") for n in range(20)])
    held_out = held_out_images(folder, (), ("{}",), "any")
    assert held_out.labels == ("cat", "dog") and held_out.labelled_by == "folders"
    assert sorted(held_out.targets) == [0] * 20 + [1] * 20
    other = held_out_images(folder, ("dog", "cow", "cat"), ("a {}",), "any")
    assert sorted(other.targets) == [0] * 20 + [2] * 20 and other.templates == ("a {}",)
    with pytest.raises(DataError, match="1 class folders are not among the labels: dog"):
        held_out_images(folder, ("cat", "cow"), ("{}",), "any")


def test_a_folder_without_classes_needs_labels_and_a_teacher(tmp_path):
    folder = saved(tmp_path / "flat", map(str, range(3)))
    with pytest.raises(DataError, match="has no class folders; add --labels FILE"):
        held_out_images(folder, (), ("{}",), "any")
    with pytest.raises(ModelError, match="any is not a run whose teacher could label the images"):
        held_out_images(folder, LABELS, ("{}",), "any")


def test_the_teacher_of_a_run_names_the_pictures(tmp_path, toy_teacher_folder, toy_teacher):
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").touch()
    (run / "config.yaml").write_text(
        f"teacher: {{model: {toy_teacher_folder.as_posix()}}}\nstudent: {{model: starter-50}}\n"
        "data: {train: pairs.csv}\noptim: {steps: 1}\n"
    )
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, picture in enumerate(pictures(40)):
        picture.save(folder / f"{number:02}.png")
    held_out = held_out_images(folder, LABELS, ("{}",), run)
    expected = HeldOut.by_teacher(TorchEmbedder(toy_teacher), pictures(40), LABELS)
    assert list(held_out.targets) == list(expected.targets)
    assert held_out.labelled_by != "folders"
