from __future__ import annotations

import math

import numpy as np
import pytest
from toy_embedders import TableEmbedder, unit_rows

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation import hundred_way, retrieval, retrieval_of_features

# Rows are images, columns texts. By hand:
#   image -> text: image 0 right; 1 second; 2 right; 3 last      -> recall@1 = 2/4
#   text -> image: text 0 right; 1 third; 2 second; 3 last       -> recall@1 = 1/4
SCORES = np.array(
    [
        [0.9, 0.7, 0.1, 0.5],
        [0.2, 0.5, 0.8, 0.4],
        [0.3, 0.6, 0.7, 0.2],
        [0.6, 0.4, 0.5, 0.1],
    ],
    dtype=np.float32,
)
IDENTITY = np.eye(4, dtype=np.float32)


def test_recall_by_hand():
    recall = retrieval_of_features(SCORES, IDENTITY)  # image @ text.T gives SCORES back
    assert recall.n == 4
    assert recall.i2t == {1: 0.5, 5: 1.0, 10: 1.0}
    assert recall.t2i == {1: 0.25, 5: 1.0, 10: 1.0}
    assert recall.mean(1) == 0.375
    assert recall.t2i_stderr[1] == pytest.approx(math.sqrt(0.25 * 0.75 / 4))
    assert recall.i2t_stderr[1] == pytest.approx(0.25)


def test_recall_at_five_and_ten_by_hand():
    """One image is nearest to every text, then the images in order of their number."""
    n = 12
    image = np.tile(np.linspace(1, 0.5, n, dtype=np.float32)[:, None], (1, 2))
    text = np.ones((n, 2), dtype=np.float32)
    recall = retrieval_of_features(image, text)
    assert recall.t2i == {
        1: pytest.approx(1 / 12),
        5: pytest.approx(5 / 12),
        10: pytest.approx(10 / 12),
    }
    # From image to text all texts are alike: chance.
    assert recall.i2t == {
        1: pytest.approx(1 / 12),
        5: pytest.approx(5 / 12),
        10: pytest.approx(10 / 12),
    }


def test_more_queries_than_a_block():
    rng = np.random.default_rng(1)
    image = unit_rows(rng.normal(size=(2100, 16)))
    text = unit_rows(image + 0.35 * rng.normal(size=image.shape))
    recall = retrieval_of_features(image, text)
    best = (text @ image.T).argmax(axis=1)
    assert recall.t2i[1] == pytest.approx((best == np.arange(2100)).mean())


def test_through_an_embedder():
    embedder = TableEmbedder(SCORES, dict(zip("abcd", IDENTITY, strict=True)))
    assert retrieval(embedder, range(4), list("abcd")).i2t[1] == 0.5


def test_a_collapsed_model_gets_chance():
    same = np.ones((50, 4), dtype=np.float32) / 2
    recall = retrieval_of_features(same, same)
    assert (
        recall.t2i
        == recall.i2t
        == {1: pytest.approx(0.02), 5: pytest.approx(0.1), 10: pytest.approx(0.2)}
    )
    assert hundred_way(same, same, ways=10).top1 == pytest.approx(0.1)


def test_wrong_sizes_are_data_errors():
    with pytest.raises(DataError, match="there are 4 images but 3 texts"):
        retrieval_of_features(IDENTITY, IDENTITY[:3])
    with pytest.raises(DataError, match="empty"):
        retrieval_of_features(IDENTITY[:0], IDENTITY[:0])
    with pytest.raises(DataError, match="empty"):
        hundred_way(IDENTITY[:0], IDENTITY[:0])


def test_among_ways_of_a_probability_by_hand():
    """Of a pair set where half the images point at their text, the others at nobody's."""
    n = 400
    text = np.eye(n, dtype=np.float32)
    image = text.copy()
    image[::2] = 0.0
    recall = hundred_way(image, text, ways=100, draws=200)
    assert (recall.n, recall.ways, recall.draws) == (n, 100, 200)
    # A zero image ties with all 100 texts, so it is worth 1/100.
    assert recall.top1 == pytest.approx(0.5 + 0.5 / 100, abs=0.01)
    assert recall.stderr == pytest.approx(math.sqrt(recall.top1 * (1 - recall.top1) / n))


def test_draws_are_seeded_and_few_pairs_are_all_used():
    rng = np.random.default_rng(2)
    image, text = unit_rows(rng.normal(size=(300, 4))), unit_rows(rng.normal(size=(300, 4)))
    assert hundred_way(image, text, seed=3) == hundred_way(image, text, seed=3)
    assert hundred_way(image, text, seed=3).top1 != hundred_way(image, text, seed=4).top1
    assert hundred_way(SCORES, IDENTITY) == hundred_way(SCORES, IDENTITY, seed=9)
    assert hundred_way(SCORES, IDENTITY).top1 == 0.5


def test_every_caption_asks_and_an_image_is_matched_by_any_of_its_own():
    """As clip-benchmark counts it: a matrix of right pairs, and topk of the scores."""
    rng = np.random.default_rng(5)
    image = unit_rows(rng.normal(size=(60, 12)))
    owners = rng.permutation(np.repeat(np.arange(60), 5))  # captions of an image stand apart
    text = unit_rows(image[owners] + 0.5 * rng.normal(size=(300, 12)))
    recall = retrieval_of_features(image, text, owners.tolist())
    scores = text @ image.T
    right = owners[:, None] == np.arange(60)
    for k in (1, 5, 10):
        top = np.argsort(-scores, axis=1)[:, :k]
        assert recall.t2i[k] == pytest.approx(np.take_along_axis(right, top, 1).any(1).mean())
        top = np.argsort(-scores.T, axis=1)[:, :k]
        assert recall.i2t[k] == pytest.approx(np.take_along_axis(right.T, top, 1).any(1).mean())
    assert (recall.n, recall.texts) == (60, 300)
    # Five equal answers an image are one answer.
    same = retrieval_of_features(image, np.repeat(text[:60], 5, axis=0), np.repeat(range(60), 5))
    one = retrieval_of_features(image, text[:60])
    assert same.t2i_stderr[1] == pytest.approx(one.t2i_stderr[1])


def test_several_right_captions_that_tie_are_shared_out():
    """Two of four tied captions are right: 1 in 2 at first, and none is missed among three."""
    image, text = np.ones((1, 1), dtype=np.float32), np.ones((4, 1), dtype=np.float32)
    from tinyclip_edge.evaluation.ranking import any_hit_at

    right = np.array([[True, True, False, False]])
    chances = [any_hit_at(image @ text.T, right, k)[0] for k in (1, 2, 3)]
    assert chances == [pytest.approx(1 / 2), pytest.approx(1 - 1 / 6), 1.0]


def test_every_image_needs_a_caption():
    with pytest.raises(DataError, match="must include each of 4 images"):
        retrieval_of_features(IDENTITY, IDENTITY, [0, 1, 2, 2])
