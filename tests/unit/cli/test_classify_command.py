"""``tinyclip-edge classify``: labels of pictures and folders, broken ones, the choice of bundle."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.runtime.label_calibration import HeldOut, calibrate_bundle


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (12, 9), name).save(folder / f"{name}.png")
    return folder


def test_probabilities_are_those_of_the_library(command_line, photos, shared_tiny_bundle):
    bundle = shared_tiny_bundle.folder
    words = ("classify", photos / "red.png", "--bundle", bundle)
    code, out, _ = command_line(*words, "--labels", "cat, red,a", "--json")
    answer = json.loads(out)
    expected = EdgeCLIP.load(bundle).classify(photos / "red.png", ["cat", "red", "a"])
    assert code == 0 and (answer["model"], answer["precision"]) == ("bundle", "int8")
    labels = answer["images"][0]["labels"]
    assert [(row["label"], pytest.approx(row["probability"])) for row in labels] == expected
    _, out, _ = command_line(*words, "--labels", "cat,red,a", "--top", 2)
    assert out == "".join(f"{100 * chance:5.1f} %  {label}\n" for label, chance in expected[:2])


def test_files_of_labels_templates_and_thresholds(command_line, photos, shared_tiny_bundle):
    (photos / "labels.txt").write_text("cat\n\nred\na\n", encoding="utf-8-sig")
    bundle = shared_tiny_bundle.folder
    words = ("classify", photos, "--labels", photos / "labels.txt", "--bundle", bundle)
    code, out, _ = command_line(*words, "--template", "{} cat", "--template", "a {}", "--json")
    clip = EdgeCLIP.load(bundle)
    images = json.loads(out)["images"]
    assert code == 0 and [entry["image"] for entry in images] == [
        str(photos / "blue.png"), str(photos / "red.png")
    ]  # fmt: skip
    for entry in images:
        expected = clip.classify(entry["image"], ["cat", "red", "a"], ["{} cat", "a {}"])
        assert [row["label"] for row in entry["labels"]] == [label for label, _ in expected]
    code, out, _ = command_line(*words, "--threshold", "1")
    assert code == 0 and out.splitlines()[:2] == [
        str(photos / "blue.png"), "  unknown: no label has 100 % or more"
    ]  # fmt: skip


def test_the_bundles_threshold_and_temperature(command_line, photos, tiny_bundle):
    folder, labels = tiny_bundle.folder, ("cat", "red", "a")
    words = ("classify", photos, "--labels", ",".join(labels), "--bundle", folder)
    code, out, err = command_line(*words, "--threshold", "calibrated")
    assert (code, out) == (2, "") and "has no calibrated threshold" in err
    clip = EdgeCLIP.load(folder)
    pictures = [Image.new("RGB", (9, 9), (5 * n, 255 - 5 * n, 100)) for n in range(45)]
    calibrate_bundle(folder, HeldOut.by_teacher(clip, pictures, labels))
    code, out, _ = command_line(*words, "--threshold", "calibrated", "--json")
    clip = EdgeCLIP.load(folder)
    for entry in json.loads(out)["images"]:
        expected = clip.classify(entry["image"], labels, threshold="calibrated")
        least = clip.confidence.decision.threshold
        assert entry["unknown"] is expected.unknown
        assert [(row["label"], pytest.approx(row["probability"])) for row in entry["labels"]] == [
            row for row in expected if row[1] >= least
        ]
    for labels, message in (("cat,red", "calibrated for 3 labels"), ("cat,red,a", "often")):
        threshold = "often" if message == "often" else "calibrated"
        words = ("classify", photos, "--labels", labels, "--bundle", folder)
        code, out, err = command_line(*words, "--threshold", threshold)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_a_broken_picture_costs_only_itself(command_line, photos, shared_tiny_bundle):
    (photos / "a.png").write_bytes(b"junk")
    words = ("classify", photos, photos / "none.png", "--labels", "cat,red")
    words = (*words, "--bundle", shared_tiny_bundle.folder)
    code, out, err = command_line(*words)
    assert code == 2 and out.count("%") == 4
    assert [line.split(" is ")[0] for line in err.splitlines()] == [
        str(photos / "a.png"), f"no such image: {photos / 'none.png'}"
    ]  # fmt: skip
    code, out, _ = command_line(*words, "--json")
    images = json.loads(out)["images"]
    assert code == 2 and [("error" in entry) for entry in images] == [True, False, False, True]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "labels.txt",
            "--labels labels.txt: no such file; write a file's name, or labels as a,b,c",
        ),
        (" , ", "--labels  , : no such file"),
        ("cat,cat", "label 'cat' appears more than once; remove the repeats"),
    ],
)
def test_labels_that_cannot_be_used(command_line, photos, shared_tiny_bundle, labels, message):
    words = ("classify", photos, "--labels", labels, "--bundle", shared_tiny_bundle.folder)
    code, out, err = command_line(*words)
    assert (code, out) == (2, "") and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_the_newest_bundle_is_used_or_one_line_says_how_to_get_one(
    command_line, photos, shared_tiny_bundle, monkeypatch
):
    monkeypatch.chdir(photos)
    words = ("classify", "red.png", "--labels", "cat,red")
    code, out, err = command_line(*words)
    assert (code, out) == (2, "") and err == (
        "error: no bundle in bundles/: name one with --bundle FOLDER, or make one with "
        "`tinyclip-edge export MODEL --int8` (pip install 'tinyclip-edge[export]')\n"
    )
    (photos / "bundles" / "old").mkdir(parents=True)
    (photos / "bundles" / "old" / "manifest.json").write_text("{}")
    os.utime(photos / "bundles" / "old" / "manifest.json", (1, 1))
    (photos / "bundles" / "new").symlink_to(shared_tiny_bundle.folder)
    assert command_line(*words)[0] == 0
