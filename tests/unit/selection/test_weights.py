"""Hashed n-grams, importance weights, the draw and the density ratio against independent values."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest

from tinyclip_edge.selection.density import DensityRatio
from tinyclip_edge.selection.near_duplicates import first_of_each
from tinyclip_edge.selection.ngrams import Hashing, hashed_texts
from tinyclip_edge.selection.top_k import threshold_of
from tinyclip_edge.selection.weights import gumbel, log_ratio, pair_weights

WIDE = Hashing(buckets=1 << 20, longest=2)


def ids_of(text, hashing=WIDE):
    return hashed_texts([text], hashing).ids.tolist()


def test_a_word_is_the_same_wherever_it_stands():
    cat, sat = ids_of("cat") + ids_of("sat")
    pair = ids_of("cat sat")[1]
    assert len({cat, sat, pair}) == 3 and ids_of("sat cat")[1] != pair
    texts = ["the CAT, sat!", "", "x " * 1000 + "cat sat", "ｃａｔ Sat", "!?"]
    hashed = hashed_texts(texts, WIDE)
    rows = np.split(hashed.ids, hashed.ends[:-1])
    assert [len(row) for row in rows] == [5, 0, 1002 + 1001, 3, 0]
    assert rows[0].tolist() == ids_of("the cat sat")
    assert rows[2].tolist()[-3:] == rows[3].tolist() == [cat, pair, sat]


def test_words_of_other_scripts():
    assert ids_of("猫が") == [*ids_of("猫"), ids_of("猫 が")[1], *ids_of("が")]
    assert len(ids_of("हिन्दी")) == 1  # its vowel signs are marks
    assert len(ids_of("don't", Hashing(1 << 24, 1))) == 2
    assert len(hashed_texts(["a b c d"], Hashing(1 << 24, 3)).ids) == 4 + 3 + 2
    assert max(hashed_texts(["a b c d e f g"], Hashing(5)).ids) < 5
    assert len(ids_of("a" * 10_000 + " b")) == 1  # beyond 4,096 characters


def grams(text):
    words = text.split()
    return [*words, *map(" ".join, pairwise(words))]


def test_weights_are_those_of_a_hand_calculation():
    target = ["a red cat", "a cat"]
    pairs = [("a cat",), ("a red dog", "the cat"), ("dog",)]
    flat = [text for pair in pairs for text in pair]
    p, q = (Counter(gram for text in texts for gram in grams(text)) for texts in (target, flat))
    assert (p.total(), q.total()) == (8, 12) and (p["a cat"], q["a cat"]) == (1, 1)

    def by_hand(text):
        ratios = (0.9 * (p[gram] / 8) / (q[gram] / 12) + 0.1 for gram in grams(text))
        return sum(map(math.log, ratios))

    assert by_hand("dog") == pytest.approx(math.log(0.1))
    assert by_hand("a cat") == pytest.approx(2 * math.log(0.9 * 1.5 + 0.1) + math.log(1.45))
    expected = [
        by_hand("a cat"),
        math.log((math.exp(by_hand("a red dog")) + math.exp(by_hand("the cat"))) / 2),
        by_hand("dog"),
    ]
    own, raw = (hashed_texts(texts, WIDE) for texts in (target, flat))
    counts = [np.bincount(each.ids, minlength=WIDE.buckets) for each in (own, raw)]
    ratio = log_ratio(*counts, smoothing=0.1)
    weights = pair_weights(raw.ids, raw.ends, np.array([1, 3, 4]), ratio)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_noise_depends_on_seed_and_place_alone():
    first = gumbel(0, "0123456789abcdef", 5)
    assert first.tolist() == gumbel(0, "0123456789abcdef", 5).tolist()
    assert not set(first) & {*gumbel(1, "0123456789abcdef", 5), *gumbel(0, "f" * 16, 5)}


def chosen_of(sums, count, block=3):
    blocks = [sums[start : start + block] for start in range(0, len(sums), block)]
    threshold, before, masks = threshold_of(lambda: blocks, count), 0, []
    for each in blocks:
        mask, before = threshold.chosen(each, before)
        masks.append(mask)
    return np.flatnonzero(np.concatenate(masks)).tolist()


def test_frequencies_of_the_draw_are_the_exact_probabilities():
    weights, count = np.array([1.0, 2.0, 3.0, 6.0]), 2
    exact = np.zeros(4)
    for order in permutations(range(4), count):  # one after the other, without replacement
        left, chance = weights.sum(), 1.0
        for pair in order:
            chance, left = chance * weights[pair] / left, left - weights[pair]
        exact[list(order)] += chance
    draws = 4000
    seen = np.zeros(4)
    for seed in range(draws):
        sums = np.log(weights) + gumbel(seed, "ab", 4)
        largest = sorted(np.argsort(sums)[-count:].tolist())
        seen[largest] += 1
        assert seed >= 50 or chosen_of(sums, count) == largest
    error = np.sqrt(exact * (1 - exact) / draws)
    assert exact.sum() == pytest.approx(2) and (abs(seen / draws - exact) < 4 * error).all()


@pytest.mark.parametrize("count", [1, 7, 100, 499, 500])
def test_the_largest_of_any_numbers(count):
    rng = np.random.default_rng(0)
    sums = np.concatenate([
        rng.normal(size=300) * 10.0 ** rng.integers(-300, 300, 300),
        np.repeat([-np.inf, -0.0, 0.0, 1.5], 50),
    ])  # fmt: skip
    order = np.argsort(-sums, kind="stable")[:count]
    assert chosen_of(sums, count, block=64) == sorted(order.tolist())


def test_a_linear_ratio_is_recovered():
    rng = np.random.default_rng(0)
    shift = np.array([0.5, -1.0, 0.0])  # of two normal densities: log p / q = shift x - shift^2 / 2
    p, q = rng.normal(size=(4000, 3)) + shift, rng.normal(size=(4000, 3))
    ratio = DensityRatio.fit(p.astype(np.float32), q.astype(np.float32), seed=0)
    points = rng.normal(size=(100, 3)).astype(np.float32)
    expected = points @ shift - shift @ shift / 2
    assert abs(ratio.log(points) - expected).max() < 0.4
    assert np.corrcoef(ratio.log(points), expected)[0, 1] > 0.99


def test_separable_sides_do_not_diverge():
    p, q = np.eye(8, dtype=np.float32)[[0] * 6], np.eye(8, dtype=np.float32)[1:7]
    ratio = DensityRatio.fit(p, q, seed=0)
    assert np.isfinite(ratio.weights).all() and ratio.log(p).min() > 1 > ratio.log(q).max()


def test_near_duplicates_of_a_better_one_are_passed_over():
    rng = np.random.default_rng(0)
    fresh = rng.normal(size=(1500, 32))
    near = fresh[:700] + 0.01 * rng.normal(size=(700, 32))  # cosines of about 0.9999
    rows = np.concatenate([fresh, near])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    order = rng.permutation(2200)
    expected, seen = [], set()
    for row in order.tolist():
        if row % 1500 not in seen:
            expected.append(row)
        seen.add(row % 1500)
    assert first_of_each(rows, order, 1500, 0.99).tolist() == expected
    assert first_of_each(rows, order, 40, 0.99).tolist() == expected[:40]
    assert len(first_of_each(rows, order, 1501, 0.99)) == 1500
