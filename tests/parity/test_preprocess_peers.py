"""Pixels of our preprocessing equal open_clip's and the Hugging Face processor's."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from odd_pictures import file_of, picture
from tinyclip_edge.runtime.preprocess import CLIP_MEAN, CLIP_STD, Preprocess

MODES = ["RGB", "RGBA", "L", "LA", "P", "P+alpha", "CMYK", "1", "YCbCr"]
SIZES = [(64, 64), (1, 1), (1, 90), (200, 3), (65, 64), (63, 97), (333, 128), (31, 30)]


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [64, (48, 80)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equal_to_open_clip_to_the_last_bit(resize_mode, size, interpolation):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = {"size": size, "resize_mode": resize_mode, "interpolation": interpolation}
    config |= {"mean": CLIP_MEAN, "std": (0.2, 0.3, 0.4), "fill_color": 7}
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)
    ours, stored = Preprocess.from_config(config), Preprocess.from_config(config, as_stored=True)
    for mode in MODES:
        for width, height in SIZES:
            image = picture(mode, width, height)
            expected = theirs(image).numpy()
            assert np.abs(expected - stored(image)).max() == 0.0, (mode, width, height)
            if mode in ("RGB", "L"):
                assert np.abs(expected - ours(image)).max() == 0.0, (mode, width, height)


# Where the margin is odd, their crop rounds down and open_clip's, which ours is, to even.
HF_SIZES = [(64, 64), (40, 90), (65, 64), (63, 97), (31, 30)]
HF_SETTINGS = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
}


def test_equal_to_the_hugging_face_processor():
    from hugging_face import PillowProcessor

    theirs = PillowProcessor(**HF_SETTINGS)
    ours = Preprocess.from_config(theirs.to_dict())
    for width, height in HF_SIZES:
        image = picture("RGB", width, height)
        expected = theirs(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(ours(image), expected, rtol=0, atol=1e-6)


def test_hugging_face_resizing_of_tensors_is_one_grey_level_away():
    """Pillow rounds between the two passes of a bicubic filter, torchvision on tensors does not."""
    import torch

    from hugging_face import TensorProcessor

    theirs = TensorProcessor(**HF_SETTINGS)
    ours = Preprocess.from_config(theirs.to_dict())
    level = 1 / 255 / np.array(CLIP_STD)[:, None, None]
    largest = 0.0
    for width, height in HF_SIZES:
        image = picture("RGB", width, height)
        expected = theirs(image, return_tensors="pt")["pixel_values"][0]
        assert isinstance(expected, torch.Tensor)
        levels = np.abs(ours(image) - expected.numpy()) / level
        largest = max(largest, float(levels.max()))
    assert largest == pytest.approx(1.0, abs=1e-3)


KINDS = [
    *(
        "PNG L",
        "PNG LA",
        "PNG RGB",
        "PNG RGBA",
        "PNG P",
        "PNG 1",
        "JPEG L",
        "JPEG CMYK",
        "TIFF CMYK",
    ),
    *(
        "TIFF LA",
        "WEBP RGBA",
        "BMP 1",
        "palette with alpha",
        "rotated",
        "GIF",
        "WEBP",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_files_equal_open_clip_to_the_last_bit(kind):
    """A rotation of EXIF is left alone there, transparency dropped, the first frame taken."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    theirs = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    content = file_of(kind)
    with Image.open(io.BytesIO(content)) as image:
        expected = theirs(image).numpy()
    np.testing.assert_array_equal(Preprocess(32, 32, as_stored=True)(content), expected)
