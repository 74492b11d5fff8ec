"""What a quantization does to the ranking, by hand calculation."""

import math

import numpy as np
import pytest

from tinyclip_export.quantization.calibration import QuantizationError, quantization_error
from tinyclip_export.quantization.mixed_precision import UNIFORM, MixedPrecision
from tinyclip_export.sensitivity.search import Layer, SensitivityRow, is_worse, rank_by_error
from tinyclip_export.sensitivity.search import _select as select


def both(image, text):
    return {"image": np.asarray(image, np.float32), "text": np.asarray(text, np.float32)}


EYE = np.eye(4, dtype=np.float32)


def test_equal_embeddings_have_no_error():
    error = quantization_error(both(EYE, EYE), both(EYE, EYE), 10.0)
    assert (error.overlap, error.kl, error.drop, error.stderr) == (100.0, 0.0, 0.0, 0.0)
    assert error.recall == 100.0


def test_two_pictures_that_change_places():
    error = quantization_error(both(EYE, EYE), both(EYE[[0, 1, 3, 2]], EYE), 2.0)
    # of four only the nearest counts: half of them stay, in both directions
    assert error.overlap == pytest.approx(50.0)
    assert error.drop == pytest.approx(50.0)
    # rows 2 and 3: logits (0, 0, 2, 0) against (0, 0, 0, 2): KL = p (2 - 0) - q 2 with
    # p = e^2 / (e^2 + 3), q = 1 / (e^2 + 3); rows 0 and 1 are equal
    e = math.exp(2.0)
    assert error.kl == pytest.approx(0.5 * 2 * (e - 1) / (e + 3), rel=1e-5)


def test_overlap_counts_neighbours_whatever_their_order():
    random = np.random.default_rng(0)
    image = random.standard_normal((40, 3)).astype(np.float32)
    text = image.copy()
    error = quantization_error(both(image, text), both(2 * image, text), 1.0)  # the same order
    assert error.overlap == 100.0
    assert error.kl > 0


def test_an_embedding_of_zeros_loses_everything():
    error = quantization_error(both(EYE, EYE), both(np.zeros_like(EYE), EYE), 10.0)
    assert math.isfinite(error.kl)
    assert error.kl > 1.0


def error_of(overlap, kl, drop=0.0):
    return QuantizationError(overlap, kl, 90.0, drop, 0.1)


def test_layers_are_sorted_by_overlap_and_kl_together():
    layers = [
        Layer("image", "good", error_of(99.9, 0.001)),
        Layer("image", "worst", error_of(90.0, 0.02)),
        Layer("text", "kl", error_of(99.0, 0.03)),
        Layer("text", "overlap", error_of(95.0, 0.004)),
    ]
    # places: good 3 + 3, worst 0 + 1, kl 2 + 0, overlap 1 + 2
    assert [layer.node for layer in rank_by_error(layers)] == ["worst", "kl", "overlap", "good"]
    assert layers[1].as_dict()["overlap"] == 90.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (error_of(99, 0.01, 0.2), False),
        (error_of(99.1, 0.009, 0.1), False),
        (error_of(98.9, 0.001, 0.0), True),
        (error_of(99.5, 0.011, 0.0), True),
        (error_of(99.5, 0.001, 0.3), True),
    ],
)
def test_worse_is_worse_in_any_figure(error, expected):
    assert is_worse(error, error_of(99, 0.01, 0.2)) is expected


def rows(*errors):
    choices = [
        UNIFORM,
        *(MixedPrecision({}, {"text": tuple("abcd"[:n])}) for n in range(1, len(errors))),
    ]
    return [SensitivityRow(choices[n], n, error, {}) for n, error in enumerate(errors)]


def test_the_fewest_float_layers_that_hold_are_selected():
    candidates = rows(
        error_of(98, 0.02, 1.0),
        error_of(98.5, 0.01, 0.8),
        error_of(99, 0.009, 0.4),
        error_of(99, 0.001, 0.0),
    )
    assert select(candidates, 0.5) is candidates[2]
    assert select(candidates, 2.0) is candidates[1]


def test_nothing_worse_than_plain_is_ever_selected():
    # holds the gate, yet finds other neighbours than plain does
    candidates = rows(error_of(99, 0.01, 0.1), error_of(97, 0.001, 0.1), error_of(97, 0.001, 0.2))
    assert select(candidates, 0.5) is candidates[0]
    candidates = rows(error_of(99, 0.01, -0.2), error_of(99, 0.011, 0.0))
    assert select(candidates, 0.5) is candidates[0]
