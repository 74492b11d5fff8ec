"""Weights of 4 bits that change a layer's outputs least on its calibration inputs."""

import numpy as np
import pytest

from tinyclip_export.quantization.block_rounding import (
    best_scales,
    error_feedback,
    round_blocks,
)

RNG = np.random.default_rng(0)


def correlated(count, channels):
    """Inputs whose channels resemble each other, as activations do."""
    return RNG.standard_normal((count, 4)) @ RNG.standard_normal((4, channels)) + 0.3 * (
        RNG.standard_normal((count, channels))
    )


def test_errors_are_made_up_for_as_least_squares_would():
    """After the first channel is rounded, the others are those that lstsq gives for the rest."""
    inputs, weight = correlated(200, 6), RNG.standard_normal((6, 5))
    feedback = error_feedback(inputs.T @ inputs, 0.0)
    rounded = round_blocks(weight, feedback, 1)
    first = rounded.dequantized()[0]
    remaining = inputs @ weight - np.outer(inputs[:, 0], first)
    best, *_ = np.linalg.lstsq(inputs[:, 1:], remaining, rcond=None)
    updated = weight[1:] - np.outer(feedback[0, 1:], (weight[0] - first) / feedback[0, 0])
    np.testing.assert_allclose(updated, best, rtol=1e-8, atol=1e-10)


def test_rounding_by_hand():
    """Half of the 0.4 that the first channel loses goes to the second: 2.6 is 3, not 2."""
    moments = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    weight = np.array([[0.4], [2.4], [-8.0]])
    rounded = round_blocks(weight, error_feedback(moments, 0.0), 3)
    assert rounded.scales.tolist() == [[1.0]]
    assert rounded.values.T.tolist() == [[0, 3, -8]]
    assert round_blocks(weight, np.eye(3), 3).values.T.tolist() == [[0, 2, -8]]


def test_outputs_change_less_than_with_the_nearest_values():
    inputs, weight = correlated(1024, 64), RNG.standard_normal((64, 32))
    calibration, others = inputs[:512], inputs[512:]
    plain = round_blocks(weight, np.eye(64), 32)
    rounded = round_blocks(weight, error_feedback(calibration.T @ calibration, 0.01), 32)

    def error(blocks):
        return np.square(others @ (blocks.dequantized() - weight)).sum()

    assert error(rounded) < 0.4 * error(plain)


def test_without_correlation_each_value_is_rounded_by_itself():
    weight = RNG.standard_normal((32, 3))
    rounded = round_blocks(weight, error_feedback(np.eye(32), 0.0), 32)
    scales = best_scales(weight, np.ones(32))
    np.testing.assert_allclose(rounded.scales[0], scales)
    np.testing.assert_array_equal(rounded.values, np.clip(np.round(weight / scales), -8, 7))


@pytest.mark.parametrize("channels", [40, 33, 7])
def test_a_last_block_may_be_shorter(channels):
    weight = RNG.standard_normal((channels, 4))
    rounded = round_blocks(weight, np.eye(channels), 32)
    assert rounded.scales.shape == (-(-channels // 32), 4)
    assert np.abs(rounded.dequantized() - weight).max() < np.abs(weight).max() / 8


def test_zeros_and_inputs_that_are_always_zero_are_no_exception():
    rounded = round_blocks(np.zeros((8, 2)), error_feedback(np.zeros((8, 8)), 0.01), 8)
    assert not rounded.dequantized().any()
    moments = np.diag([0.0, 1.0, 2.0, 0.0])
    assert np.isfinite(error_feedback(moments, 0.01)).all()
