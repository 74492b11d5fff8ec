from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score
from toy_embedders import TableEmbedder, unit_rows

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation import zero_shot
from tinyclip_edge.runtime.prompts import class_features


@pytest.fixture
def model():
    rng = np.random.default_rng(4)
    names = [f"{frame}{word}" for word in "abcdefgh" for frame in ("", "a photo of ")]
    texts = dict(zip(names, unit_rows(rng.normal(size=(16, 6))), strict=True))
    return TableEmbedder(unit_rows(rng.normal(size=(90, 6))), texts)


@pytest.mark.parametrize("templates", [("{}",), ("{}", "a photo of {}")])
def test_equals_scikit_learn(model, templates):
    targets = np.random.default_rng(5).integers(0, 8, 90)
    accuracy = zero_shot(model, range(90), targets.tolist(), list("abcdefgh"), templates)
    means = [
        unit_rows([np.mean([model.texts[t.replace("{}", c)] for t in templates], axis=0)])[0]
        for c in "abcdefgh"
    ]
    scores = model.images @ np.array(means).T
    labels = np.arange(8)
    assert accuracy.top1 == pytest.approx(top_k_accuracy_score(targets, scores, k=1, labels=labels))
    assert accuracy.top5 == pytest.approx(top_k_accuracy_score(targets, scores, k=5, labels=labels))
    assert (accuracy.n, accuracy.classes) == (90, 8)
    assert accuracy.stderr == pytest.approx(math.sqrt(accuracy.top1 * (1 - accuracy.top1) / 90))


def test_class_features_have_unit_norm(model):
    rows = class_features(model, ["a", "b"], ("{}", "a photo of {}"))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-6)


def test_fewer_than_five_classes_make_top5_certain(model):
    assert zero_shot(model, [0, 1], [0, 1], ["a", "b"]).top5 == 1.0


@pytest.mark.parametrize(
    ("images", "targets", "names", "message"),
    [
        ([0], [0, 1], ["a"], "there are 1 images but 2 targets"),
        ([], [], ["a"], "set is empty"),
        ([0], [0], [], "list of labels is empty"),
        ([0], [3], ["a", "b"], "targets run from 3 to 3, but there are 2"),
        ([0], [-1], ["a", "b"], "targets run from -1"),
    ],
)
def test_wrong_input(model, images, targets, names, message):
    with pytest.raises(DataError, match=message):
        zero_shot(model, images, targets, names)
