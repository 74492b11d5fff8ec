"""Pictures like those of the training, and others: distances, p-values, and what a bundle says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.familiarity import (
    LOOKS,
    Classification,
    Distance,
    looks,
    packed,
    quantiles,
    unpacked,
    whitened,
)

RANDOM = np.random.default_rng(3)


def rows(count, width=6):
    """Correlated rows of uneven variance."""
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    mixing = np.geomspace(0.5, 2, width)[:, None] * rotation
    return (RANDOM.normal(size=(count, width)) @ mixing + 2).astype(np.float32)


def test_the_distance_along_all_directions_is_mahalanobis():
    fitted, others = rows(500), rows(20)
    mean, directions = whitened(fitted, 6)
    centred = others - fitted.mean(axis=0)
    inverse = np.linalg.inv(np.cov(fitted.T, ddof=0))
    expected = np.einsum("ni,ij,nj->n", centred, inverse, centred)
    values = Distance(mean, directions, np.array([1.0])).values(others)
    np.testing.assert_allclose(values, expected, rtol=1e-2)
    entry = {**packed(mean, directions), "quantiles": [1.0]}
    np.testing.assert_allclose(unpacked(entry, [1.0], 6).values(others), expected, rtol=0.05)


def test_of_few_directions_those_that_vary_least_are_taken():
    fitted = RANDOM.normal(size=(400, 3)).astype(np.float32) * [5.0, 0.1, 1.0]
    _, directions = whitened(fitted.astype(np.float32), 1)
    assert np.abs(directions[0]).argmax() == 1
    assert np.abs(directions[0, 1]) == pytest.approx(10, rel=0.15)


def test_p_values_are_ranks_among_familiar_pictures():
    distance = Distance(np.zeros(1, np.float32), np.ones((1, 1), np.float32), np.array([1.0, 4, 9]))
    # distances 0, 2.25, 9 and 16: 3, 2, 1 and 0 of the three are at least as far
    p_values = distance.rarity(np.array([[0], [1.5], [3], [4]], np.float32))
    np.testing.assert_allclose(p_values, [4 / 4, 3 / 4, 2 / 4, 1 / 4])
    assert len(quantiles(np.arange(5000.0))) == 200


def test_looks_of_a_picture_made_by_hand():
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    pixels[0, 0, 3:5, 3:5] = 1.0
    border, flat, detail = looks(pixels)[0][:3], looks(pixels)[0][3], looks(pixels)[0][4:]
    np.testing.assert_array_equal(border, [0, 0, 0])
    # in two of eight rows, two of seven steps are steep; each by 1 in one of three channels
    assert flat == pytest.approx(1 - 4 / 56)
    # 4 steps of 1 among 3 * 56, across and down alike
    assert detail[0] == pytest.approx(math.log(1e-3 + 2 * 4 / 168), rel=1e-5)
    # halved: four squares of 1/4 in a row of four, with 2 steps of 1/4 in each of two rows
    assert detail[1] == pytest.approx(math.log(1e-3 + 2 * 2 * 2 * 0.25 / 36), rel=1e-5)
    assert looks(np.zeros((4, 3, 64, 64), np.float32)).shape == (4, LOOKS)


def test_a_classification_is_a_list_that_knows_more():
    answer = Classification([("cat", 0.75), ("dog", 0.25)], familiar=False)
    assert answer == [("cat", 0.75), ("dog", 0.25)] and answer[:1] == [("cat", 0.75)]
    assert json.dumps(answer) == '[["cat", 0.75], ["dog", 0.25]]'
    assert answer.familiar is False and Classification().familiar is None


def flat_pictures(count, level):
    """Pictures of one colour each around a level, as a bundle of the tiny model sees them."""
    values = np.clip(RANDOM.normal(level, 12, size=(count, 3)), 0, 255).astype(np.uint8)
    return [Image.new("RGB", (12, 9), tuple(map(int, value))) for value in values]


def add_familiarity(folder, pictures, threshold=0.05):
    """Fit on the pictures with a bundle's own model, and write the result into its manifest."""
    clip = EdgeCLIP.load(folder)
    features, pixels = clip.encode_image(pictures), clip.preprocess.batch(pictures)
    noisy = looks(pixels) + RANDOM.normal(0, 0.01, (len(pictures), LOOKS)).astype(np.float32)
    look = packed(*whitened(noisy, LOOKS))
    look["quantiles"] = quantiles(unpacked(look, [0.0], LOOKS).values(noisy))
    embedding = packed(*whitened(features, 3))
    listed = quantiles(unpacked(embedding, [0.0], 4).values(features))
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["familiarity"] = {
        "embedding": embedding,
        "looks": look,
        "precisions": {
            name: {"quantiles": listed, "threshold": threshold} for name in ("fp32", "int8")
        },
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return content


def test_a_bundle_tells_strange_pictures_from_familiar_ones(tiny_bundle):
    assert EdgeCLIP.load(tiny_bundle.folder).classify(
        flat_pictures(1, 200)[0], ["cat", "red"]
    ).familiar is None  # fmt: skip
    add_familiarity(tiny_bundle.folder, flat_pictures(300, 200))
    clip = EdgeCLIP.load(tiny_bundle.folder)
    known = [clip.classify(one, ["cat", "red"]).familiar for one in flat_pictures(60, 200)]
    assert known.count(True) >= 54
    noise = [Image.fromarray(RANDOM.integers(0, 90, (9, 12, 3), dtype=np.uint8)) for _ in range(20)]
    assert [clip.classify(one, ["cat", "red"]).familiar for one in noise] == [False] * 20


def test_a_broken_entry_is_refused_when_it_is_used(tiny_bundle):
    content = add_familiarity(tiny_bundle.folder, flat_pictures(50, 200))
    path = tiny_bundle.folder / "manifest.json"
    for change in (
        {"directions": "AAAA"},
        {"directions": "not base64!"},
        {"scales": ["x"] * 3},
        {"scales": [1e39] * 3},
        {"mean": ""},
    ):
        entry = {**content["familiarity"], "embedding": {**content["familiarity"]["embedding"]}}
        entry["embedding"].update(change)
        path.write_text(json.dumps({**content, "familiarity": entry}), encoding="utf-8")
        with pytest.raises(BundleError, match="familiarity of int8 is broken; export it again"):
            EdgeCLIP.load(tiny_bundle.folder).classify(flat_pictures(1, 200)[0], ["cat", "red"])
    path.write_text(json.dumps({**content, "familiarity": 3}), encoding="utf-8")
    with pytest.raises(BundleError, match="familiarity must be an object"):
        EdgeCLIP.load(tiny_bundle.folder)
