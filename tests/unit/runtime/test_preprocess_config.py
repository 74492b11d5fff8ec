"""Preprocessing configurations that cannot be used are refused as such."""

from __future__ import annotations

import pytest

from tinyclip_edge.errors import ModelError
from tinyclip_edge.runtime.preprocess import Preprocess


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"size": "big"},
        {"size": 0},
        {"size": 8, "resize_mode": "shortes"},
        {"size": 8, "interpolation": "nearest"},
        {"size": 8, "mean": [1.0]},
        {"size": 8, "std": [1.0, 0.0, 1.0]},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1], "size": {}},
        {"size": 10**6},
        {"size": float("inf")},
        {"size": 8, "mean": [float("nan"), 0.0, 0.0]},
        {"size": 8, "fill_color": 999},
        {"size": []},
        [],
        None,
    ],
)
def test_wrong_configurations_are_model_errors(config):
    with pytest.raises(ModelError, match="preprocessing"):
        Preprocess.from_config(config)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [1e308] * 3},
        {"std": [1e-320] * 3},
        {"std": [1e-20] * 3},
        {"size": [5000, 5000]},
        {"size": 10**30},
    ],
)
def test_a_configuration_whose_pixels_would_not_be_finite_or_small_is_refused(change):
    settings = {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, **change}
    with pytest.raises(ModelError, match="preprocessing: "):
        Preprocess.from_config(settings)
