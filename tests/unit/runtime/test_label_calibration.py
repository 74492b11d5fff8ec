"""Temperature and threshold of answers, against hand calculations and other libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.calibration import calibration_curve

from tinyclip_edge.errors import BundleError, ConfigError, DataError
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.confidence import CALIBRATED, tempered
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.label_calibration import (
    HeldOut,
    calibrate_bundle,
    confidence_of,
    expected_calibration_error,
    fit_temperature,
)

LABELS = ("cat", "red", "dog")


def overconfident(count, factor, seed=0):
    """Logits ``factor`` times those by which the targets were drawn."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, 4))
    targets = [int(random.choice(4, p=softmax(row))) for row in logits]
    return factor * logits, np.array(targets)


def test_the_calibration_error_is_that_of_a_hand_calculation():
    confidences, right = np.array([0.3, 0.5, 0.7, 0.9]), np.array([False, True, True, False])
    # (0, 0.5]: confidence 0.4, accuracy 0.5; (0.5, 1]: 0.8 and 0.5; half of the answers each
    assert expected_calibration_error(confidences, right, bins=2) == pytest.approx(0.2)
    assert expected_calibration_error(np.array([1.0]), np.array([True])) == 0


def test_the_calibration_error_is_that_of_scikit_learn():
    random = np.random.default_rng(1)
    confidences = np.append(random.uniform(0, 1, 500), [0.2, 0.4, 1.0])
    right = random.uniform(0, 1, 503) < confidences**2
    accuracies, means = calibration_curve(right, confidences, n_bins=15, strategy="uniform")
    counts = np.histogram(confidences, np.linspace(0, 1, 16))[0]
    assert len(accuracies) == np.count_nonzero(counts) == 15
    expected = (np.abs(accuracies - means) * counts).sum() / 503
    # The histogram has 0.2 and 0.4 in the next bin, two of 503 answers.
    assert expected_calibration_error(confidences, right) == pytest.approx(expected, abs=2 / 503)
    inside = confidences[:500], right[:500]
    accuracies, means = calibration_curve(inside[1], inside[0], n_bins=15, strategy="uniform")
    counts = np.histogram(inside[0], np.linspace(0, 1, 16))[0]
    expected = (np.abs(accuracies - means) * counts).sum() / 500
    assert expected_calibration_error(*inside) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bias", [None, -3.0])
def test_the_temperature_is_that_of_another_optimizer(bias):
    logits, targets = overconfident(400, 3.0)

    def loss(log_temperature):
        scaled = (logits + (bias or 0.0)) / np.exp(log_temperature)
        if bias is None:
            return -log_softmax(scaled, axis=1)[np.arange(400), targets].mean()
        is_target = np.eye(4)[targets]
        chances = np.where(is_target, expit(scaled), expit(-scaled))
        return -np.log(chances).sum(axis=1).mean()

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)
    assert fit_temperature(logits, targets, bias) == pytest.approx(expected, rel=1e-3)
    if bias is None:
        assert expected == pytest.approx(3, rel=0.2)


def test_the_temperature_mends_overconfident_answers():
    logits, targets = overconfident(2000, 4.0)
    entry = confidence_of(logits, targets)
    assert entry["temperature"] == pytest.approx(4, rel=0.1)
    assert entry["ece_before"] > 0.15 and entry["ece_after"] < 0.04
    best = softmax(logits / entry["temperature"], axis=1).max(axis=1)
    right = logits.argmax(axis=1) == targets
    assert entry["accuracy"] == pytest.approx(right.mean(), abs=1e-4)
    assert entry["right_answered"] == pytest.approx(
        (best[right] >= entry["threshold"]).mean(), 1e-3
    )
    assert 0.95 <= entry["right_answered"] <= 0.952  # one in twenty is turned away
    wrong = best[~right] >= entry["threshold"]
    assert entry["wrong_answered"] == pytest.approx(wrong.mean(), 1e-3)
    assert entry["wrong_answered"] < 0.85


def test_the_threshold_is_the_answer_that_one_right_one_in_twenty_lies_below():
    # 39 right answers, 40 // 20 = 2: the second lowest of them is the threshold
    margins = np.linspace(0.2, 4.0, 39)
    logits = np.stack([margins, np.zeros(39)], axis=1)
    wrong = np.array([[0.1, 0.0]] * 3)
    entry = confidence_of(np.concatenate([logits, wrong]), [0] * 39 + [1] * 3)
    expected = expit(margins[1] / entry["temperature"])
    assert entry["threshold"] == pytest.approx(expected, abs=2e-6)
    assert entry["right_answered"] == pytest.approx(38 / 39, abs=1e-4)
    assert entry["wrong_answered"] == 0


def test_too_few_right_answers_are_refused():
    logits = np.tile([1.0, 0.0], (60, 1))
    with pytest.raises(DataError, match="only 18 of 60 held-out images are classified right"):
        confidence_of(logits, [0] * 18 + [1] * 42)


def test_probabilities_are_tempered_without_their_logits():
    logits = np.random.default_rng(2).normal(0, 3, (5, 4)).astype(np.float32)
    for independent, function in ((False, lambda x: softmax(x, axis=1)), (True, expit)):
        chances = tempered(function(logits), 2.5, independent=independent)
        assert chances == pytest.approx(function(logits / 2.5), abs=1e-6)


def pictures(count):
    random = np.random.default_rng(3)
    colours = random.integers(0, 255, (count, 3))
    return [Image.new("RGB", (12, 9), tuple(map(int, colour))) for colour in colours]


def calibrated(folder):
    clip = EdgeCLIP.load(folder, precision="fp32")
    images = pictures(80)
    held_out = HeldOut.by_teacher(clip, images, LABELS)
    return images, calibrate_bundle(folder, held_out)


def test_a_bundle_says_unknown_below_its_threshold(tiny_bundle):
    folder = tiny_bundle.folder
    before = EdgeCLIP.load(folder)
    answer = before.classify(pictures(1)[0], LABELS)
    assert answer.unknown is None
    with pytest.raises(BundleError, match="has no calibrated threshold"):
        before.classify(pictures(1)[0], LABELS, threshold=CALIBRATED)
    images, confidence = calibrated(folder)
    stored = Manifest.read(folder).confidence
    assert stored == json.loads(json.dumps(confidence))
    assert stored["labels"] == list(LABELS) and stored["images"] == 80
    assert set(stored["precisions"]) == {"fp32", "int8"}
    own = stored["precisions"]["int8"]
    assert own["accuracy"] == 1 and stored["labelled_by"] == before.name
    clip = EdgeCLIP.load(folder)
    answers = [clip.classify(image, LABELS, threshold=CALIBRATED) for image in images]
    assert sum(answer.unknown for answer in answers) == 3  # 81 // 20 = 4: the fourth passes
    first = dict(answers[0])
    plain = np.array([dict(clip.classify(images[0], LABELS))[label] for label in LABELS])
    expected = softmax(np.log(plain) / own["temperature"])
    assert [first[label] for label in LABELS] == pytest.approx(expected, abs=1e-5)
    # the order of the labels does not matter
    assert clip.classify(images[0], LABELS[::-1], threshold=CALIBRATED).unknown is (
        answers[0].unknown
    )


def test_a_number_is_a_threshold_of_plain_probabilities(tiny_bundle):
    clip = EdgeCLIP.load(tiny_bundle.folder)
    answer = clip.classify(pictures(1)[0], LABELS)
    best = answer[0][1]
    for threshold, unknown in ((best, False), (np.nextafter(best, 2), True), (0, False)):
        other = clip.classify(pictures(1)[0], LABELS, threshold=threshold)
        assert other == answer and other.unknown is unknown
    for wrong in (1.5, -0.1, "often", True, float("nan")):
        with pytest.raises(ConfigError, match="neither 0 to 1 nor 'calibrated'"):
            clip.classify(pictures(1)[0], LABELS, threshold=wrong)


def test_other_labels_than_the_calibrated_ones_are_refused(tiny_bundle):
    calibrated(tiny_bundle.folder)
    clip = EdgeCLIP.load(tiny_bundle.folder)
    for labels, templates in ((LABELS[:2], ("{}",)), (LABELS, ("a {}",))):
        with pytest.raises(DataError, match=r"calibrated for 3 labels \(cat, red, dog\) in '{}'"):
            clip.classify(pictures(1)[0], labels, templates, threshold=CALIBRATED)


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", "warm"), ("threshold", None), ("temperature", -1), ("threshold", 1.5)],
)
def test_a_broken_entry_is_refused(tiny_bundle, key, value):
    calibrated(tiny_bundle.folder)
    path = tiny_bundle.folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["confidence"]["precisions"]["int8"][key] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleError, match="confidence"):
        clip = EdgeCLIP.load(tiny_bundle.folder)
        clip.classify(pictures(1)[0], LABELS, threshold=CALIBRATED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("cat",)}, "at least two labels"),
        ({"images": pictures(37), "targets": [0] * 37}, "37 held-out images are too few"),
        ({"targets": [0] * 79}, "80 images have 79 targets"),
        ({"targets": [3] * 80}, "a target that is not a label"),
    ],
)
def test_unusable_pictures_are_refused_before_anything_is_measured(change, message):
    values = {"images": pictures(80), "targets": [0] * 80, "labels": LABELS, **change}
    with pytest.raises(DataError, match=message):
        calibrate_bundle("nowhere", HeldOut(**values))
