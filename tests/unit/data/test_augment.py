"""Crops, flips and colours drawn at each step: by hand, by PIL, and by seed and step alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tinyclip_edge.config import DataConfig
from tinyclip_edge.data.augment import Augment, apply_draws

IDENTITY = [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]


def picture(size=8, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (1, 3, size, size), dtype=np.uint8))


def changed(pixels, **columns):
    names = ("left", "top", "wide", "high", "flip", "brightness", "contrast", "saturation")
    row = [columns.get(name, value) for name, value in zip(names, IDENTITY, strict=True)]
    return apply_draws(pixels, torch.tensor([row]))


def test_the_full_picture_stays_as_it_is():
    pixels = picture()
    assert torch.equal(changed(pixels), pixels)


def test_flip_is_the_mirror_image():
    pixels = picture()
    assert torch.equal(changed(pixels, flip=1.0), pixels.flip(-1))


def test_a_crop_is_that_of_pil_inside():
    pixels = picture(16)
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    # PIL repeats the border of the box, the grid reads on behind it: compare the inside.
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR, box=(4, 2, 12, 14)))
    result = changed(pixels, left=0.25, top=0.125, wide=0.5, high=0.75)[0].permute(1, 2, 0).numpy()
    assert np.abs(result[2:-2, 2:-2].astype(int) - expected[2:-2, 2:-2]).max() <= 1


def test_colours_by_hand():
    pixels = torch.tensor([100, 50, 200], dtype=torch.uint8).view(1, 3, 1, 1)
    grey = 0.299 * 100 + 0.587 * 50 + 0.114 * 200  # 82.05
    assert changed(pixels, brightness=0.5).flatten().tolist() == [50, 25, 100]
    assert changed(pixels, brightness=2.0).flatten().tolist() == [200, 100, 255]
    half = [round(grey + 0.5 * (value - grey)) for value in (100, 50, 200)]
    assert changed(pixels, saturation=0.5).flatten().tolist() == half
    assert changed(pixels, saturation=0.0).flatten().tolist() == [round(grey)] * 3
    # One pixel: its own grey is the picture's mean.
    assert changed(pixels, contrast=0.5).flatten().tolist() == half


def test_draws_follow_from_seed_and_step():
    augment = Augment((0.3, 0.9), flip=0.5, colour=0.4)
    draws = augment.draw(3, 7, 4000)
    assert torch.equal(draws, augment.draw(3, 7, 4000))
    assert not torch.equal(draws, augment.draw(3, 8, 4000))
    assert not torch.equal(draws, augment.draw(4, 7, 4000))
    x, top, wide, high = draws[:, :4].T
    assert (x >= 0).all()
    assert (top >= 0).all()
    assert ((x + wide) <= 1 + 1e-6).all()
    assert ((top + high) <= 1 + 1e-6).all()
    assert (wide * high).min() > 0.25  # a side that would be too long is cut
    assert (wide * high).max() <= 0.9 + 1e-6
    assert (wide * high).mean() == pytest.approx(0.6, abs=0.02)
    assert draws[:, 4].mean() == pytest.approx(0.5, abs=0.04)
    assert draws[:, 5:].min() >= 0.6 - 1e-6
    assert draws[:, 5:].max() <= 1.4 + 1e-6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"augment_crop": [0.0, 1.0]}, "augment_crop must be two shares"),
        ({"augment_flip": 0.5}, "need augment_crop"),
        ({"augment_crop": [0.5, 1.0], "views": 2}, "views uses fixed crops"),
        ({"augment_crop": [0.5, 1.0], "feature_cache": "x"}, "feature_cache uses fixed crops"),
    ],
)
def test_contradictions_are_reported(keys, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate({"train": "x.tar", **keys})
