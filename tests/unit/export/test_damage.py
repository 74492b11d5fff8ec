"""What a quantization does to the ranking, by hand calculation."""

import math

import numpy as np
import pytest

from tinyclip_export.quantization.calibration import QuantizationError, quantization_error
from tinyclip_export.quantization.mixed_precision import UNIFORM, MixedPrecision
from tinyclip_export.sensitivity.search import Layer, SensitivityRow, is_worse, rank_by_error
from tinyclip_export.sensitivity.search import _select as chosen


def both(image, text):
    return {"image": np.asarray(image, np.float32), "text": np.asarray(text, np.float32)}


EYE = np.eye(4, dtype=np.float32)


def test_nothing_changed_is_no_damage():
    found = quantization_error(both(EYE, EYE), both(EYE, EYE), 10.0)
    assert (found.overlap, found.kl, found.drop, found.stderr) == (100.0, 0.0, 0.0, 0.0)
    assert found.recall == 100.0


def test_two_pictures_that_change_places():
    found = quantization_error(both(EYE, EYE), both(EYE[[0, 1, 3, 2]], EYE), 2.0)
    # of four only the nearest counts: half of them stay, in both directions
    assert found.overlap == pytest.approx(50.0)
    assert found.drop == pytest.approx(50.0)
    # rows 2 and 3: logits (0, 0, 2, 0) against (0, 0, 0, 2): KL = p (2 - 0) - q 2 with
    # p = e^2 / (e^2 + 3), q = 1 / (e^2 + 3); rows 0 and 1 are equal
    e = math.exp(2.0)
    assert found.kl == pytest.approx(0.5 * 2 * (e - 1) / (e + 3), rel=1e-5)


def test_overlap_counts_neighbours_whatever_their_order():
    random = np.random.default_rng(0)
    image = random.standard_normal((40, 3)).astype(np.float32)
    text = image.copy()
    found = quantization_error(both(image, text), both(2 * image, text), 1.0)  # the same order
    assert found.overlap == 100.0
    assert found.kl > 0


def test_an_embedding_of_zeros_loses_everything():
    found = quantization_error(both(EYE, EYE), both(np.zeros_like(EYE), EYE), 10.0)
    assert math.isfinite(found.kl)
    assert found.kl > 1.0


def of(overlap, kl, drop=0.0):
    return QuantizationError(overlap, kl, 90.0, drop, 0.1)


def test_layers_are_sorted_by_overlap_and_kl_together():
    layers = [
        Layer("image", "good", of(99.9, 0.001)),
        Layer("image", "worst", of(90.0, 0.02)),
        Layer("text", "kl", of(99.0, 0.03)),
        Layer("text", "overlap", of(95.0, 0.004)),
    ]
    # places: good 3 + 3, worst 0 + 1, kl 2 + 0, overlap 1 + 2
    assert [layer.node for layer in rank_by_error(layers)] == ["worst", "kl", "overlap", "good"]
    assert layers[1].as_dict()["overlap"] == 90.0


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (of(99, 0.01, 0.2), False),
        (of(99.1, 0.009, 0.1), False),
        (of(98.9, 0.001, 0.0), True),
        (of(99.5, 0.011, 0.0), True),
        (of(99.5, 0.001, 0.3), True),
    ],
)
def test_worse_is_worse_in_any_figure(found, answer):
    assert is_worse(found, of(99, 0.01, 0.2)) is answer


def rows(*damages):
    choices = [
        UNIFORM,
        *(MixedPrecision({}, {"text": tuple("abcd"[:n])}) for n in range(1, len(damages))),
    ]
    return [SensitivityRow(choices[n], n, found, {}) for n, found in enumerate(damages)]


def test_the_fewest_float_layers_that_hold_are_chosen():
    found = rows(of(98, 0.02, 1.0), of(98.5, 0.01, 0.8), of(99, 0.009, 0.4), of(99, 0.001, 0.0))
    assert chosen(found, 0.5) is found[2]
    assert chosen(found, 2.0) is found[1]


def test_nothing_worse_than_plain_is_ever_chosen():
    # holds the gate, yet finds other neighbours than plain does
    found = rows(of(99, 0.01, 0.1), of(97, 0.001, 0.1), of(97, 0.001, 0.2))
    assert chosen(found, 0.5) is found[0]
    found = rows(of(99, 0.01, -0.2), of(99, 0.011, 0.0))
    assert chosen(found, 0.5) is found[0]
