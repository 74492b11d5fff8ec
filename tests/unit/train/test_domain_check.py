"""What a look at unlabelled images and labels finds, by hand calculation."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge.collection.outliers import far_images
from tinyclip_edge.errors import DataError
from tinyclip_edge.models import TorchEmbedder
from tinyclip_edge.models.common_names import common_names
from tinyclip_edge.train.preflight.domain_check import (
    DomainCheck,
    Recognition,
    check_domain,
    look_at_features,
    recognition,
)

LABELS = ("cat", "dog", "cow")


def rows(*places, width=6, tilt=0.0):
    """Unit vectors along some axes, each tilted a little towards one of its own."""
    vectors = np.eye(width, dtype=np.float32)[list(places)]
    vectors[:, -1] += tilt * np.arange(len(places), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_labels_that_win_are_compared_with_all_sets_of_names():
    images = rows(0, 0, 0, 2, width=4)  # the first label wins three times, a common name once
    names = np.eye(4, dtype=np.float32)
    seen = recognition(images, names[:2], names[2:])
    wins = [3, 0, 1, 0]
    sums = [wins[one] + wins[two] for one, two in combinations(range(4), 2)]
    assert (seen.share, seen.chance) == (3 / 4, np.mean(sums) / 4)
    assert seen.sigmas == pytest.approx((0.75 - 0.5) / (np.std(sums) / 4))
    assert seen.skill == pytest.approx(0.5)


def test_images_far_from_all_labels_are_outliers():
    # median 0.30, median absolute deviation 0.01: -3.5 deviations are at 0.30 - 0.0519
    nearest = np.array([0.29, 0.3, 0.31, 0.29, 0.31, 0.249, 0.247, 0.1, 0.3, 0.31, 0.3, 0.29, 0.31])
    assert np.median(np.abs(nearest - np.median(nearest))) == pytest.approx(0.01)
    assert far_images(nearest) == [7, 6]
    assert far_images(np.full(5, 0.3)) == []


def test_confusions_and_unused_labels_are_counted():
    # At scale 1 / 0.2 a difference of 0.2 in cosine is a factor of e, above 1 / CLOSE.
    images = np.array(
        [[0.5, 0.45, 0]] * 3 + [[0.45, 0.5, 0]] + [[0.7, 0.1, 0]] * 6 + [[0, 0.6, 0]] * 2,
        np.float32,
    )
    check = check_domain(images, np.eye(3, dtype=np.float32), LABELS, scale=5.0)
    assert check.unused == ("cow",) and check.images == 12 and check.labels == 3
    (pair,) = check.confused
    # four of the nine cats and three dogs are nearly as much the other
    assert (pair.first, pair.second, pair.share) == ("cat", "dog", pytest.approx(4 / 12))
    second = np.exp(5.0 * (0.1 - 0.7)) + np.exp(-5.0 * 0.7)
    assert check.confidence < 1 / (1 + second)
    assert check.recognition is None


def test_nearly_equal_images_are_counted():
    images = rows(0, 0, 0, 1, 2)
    check = check_domain(images, rows(0, 1, 2), LABELS, scale=10.0)
    assert check.repeated == pytest.approx(2 / 5) and check.commonest == pytest.approx(3 / 5)
    assert check_domain(rows(0), rows(0, 1, 2), LABELS, scale=10.0).commonest == 0
    with pytest.raises(DataError, match="no images"):
        check_domain(rows(), rows(0, 1, 2), LABELS, scale=10.0)


def test_a_chain_of_nearly_equal_images_is_not_one_image():
    angles = np.deg2rad(np.arange(91))  # neighbours have a cosine of 0.9998, both ends one of 0
    images = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    check = check_domain(images, images[[0, 45, 90]], LABELS, scale=10.0)
    # cosine 0.98 is an angle of 11.5 degrees, to both sides of the centre at 45
    assert check.commonest == pytest.approx(23 / 91)
    assert check.repeated == pytest.approx(90 / 91)


GOOD = DomainCheck(
    images=100,
    labels=3,
    confidence=0.9,
    unused=(),
    confused=(),
    far=(),
    repeated=0.0,
    commonest=0.01,
    recognition=Recognition(1.0, 0.01, 9.0),
)


def test_findings_say_what_is_wrong():
    assert GOOD.findings == () and not GOOD.refused
    names = tuple(f"{number}.png" for number in range(7))
    check = replace(GOOD, images=35, commonest=0.95, repeated=0.95, far=names, unused=("cow",))
    texts = [finding.text for finding in check.findings]
    assert texts == [
        "35 images are too few; give at least 36",
        "95% of the images are nearly the same",
        "the teacher never uses 1 of 3 labels: cow",
        "7 images are far from all labels: 0.png, 1.png, 2.png, 3.png, 4.png …",
    ]
    assert check.refused and [finding.refuses for finding in check.findings][:3] == [1, 1, 0]
    assert check.as_dict()["recognition"]["share"] == 1


@pytest.mark.parametrize(
    ("share", "sigmas", "refuses", "words"),
    [
        (0.5, 2.9, True, "does not know this domain: for 50.0% of the images"),
        (0.04, 9.0, False, "knows little of this domain: for 4.0% of the images"),
        (0.5, 3.0, None, ""),
    ],
)
def test_a_teacher_without_knowledge_is_refused(share, sigmas, refuses, words):
    seen = replace(GOOD.recognition, share=share, chance=0.01, sigmas=sigmas)
    findings = replace(GOOD, recognition=seen).findings
    assert [finding.refuses for finding in findings] == ([] if refuses is None else [refuses])
    assert all(words in finding.text for finding in findings)


def test_common_names_are_spread_and_leave_the_labels_out():
    names = common_names(256)
    assert len(names) == len(set(names)) == 256
    assert common_names(256, without=[names[0].upper()])[0] != names[0]
    assert len(common_names(2000)) <= 1000


def features_of(teacher, count):
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(count)]
    return TorchEmbedder(teacher).encode_image([Image.fromarray(each) for each in pixels])


def test_a_random_teacher_knows_nothing(toy_teacher):
    check = look_at_features(toy_teacher, features_of(toy_teacher, 40), ["cat", "dog", "bicycle"])
    assert any("does not know" in finding.text or "nearly the same" in finding.text
               for finding in check.findings)  # fmt: skip
    assert check.refused


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat"], "one label leaves nothing to tell apart"),
        (["cat", "cat"], "label 'cat' appears more than once"),
        (["cat " * 20 + "dog", "cat " * 20 + "red"], "are the same after truncation"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(toy_teacher, labels, message):
    with pytest.raises(DataError, match=message):
        look_at_features(toy_teacher, features_of(toy_teacher, 1), labels)
