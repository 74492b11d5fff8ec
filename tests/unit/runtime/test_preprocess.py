from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from odd_pictures import encoded, file_of, picture
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime import image_limits
from tinyclip_edge.runtime.preprocess import CLIP_MEAN, CLIP_STD, Preprocess


def test_both_forms_of_configuration_mean_the_same():
    hugging_face = {
        "size": {"height": 20, "width": 20},
        "do_center_crop": False,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "resample": 2,
    }
    open_clip = {"size": 20, "resize_mode": "squash", "interpolation": "bilinear"}
    assert Preprocess.from_config(hugging_face) == Preprocess.from_config(open_clip)
    longest = {**hugging_face, "resize_mode": "longest"}
    assert Preprocess.from_config(longest).resize_mode == "longest"


def test_paths_bytes_arrays_and_images_give_the_same(tmp_path):
    image = picture("RGB", 40, 30)
    path = tmp_path / "picture.png"
    image.save(path)
    preprocess = Preprocess(16, 16)
    expected = preprocess(image)
    for same in (path, str(path), path.read_bytes(), np.asarray(image)):
        np.testing.assert_array_equal(preprocess(same), expected)


def test_grey_and_transparent_arrays():
    preprocess = Preprocess(16, 16)
    grey = np.asarray(picture("L", 30, 20))
    np.testing.assert_array_equal(preprocess(grey), preprocess(grey[:, :, None]))
    rgba = picture("RGBA", 30, 20)
    np.testing.assert_array_equal(preprocess(np.asarray(rgba)), preprocess(rgba))


def test_as_stored_a_rotation_is_not_applied_and_frames_are_not_mixed():
    preprocess = Preprocess(32, 32, as_stored=True)
    with Image.open(io.BytesIO(file_of("rotated"))) as image:
        assert image.getexif()[0x0112] == 6 and image.size == (90, 60)
        np.testing.assert_array_equal(preprocess(file_of("rotated")), preprocess(image.copy()))
    with Image.open(io.BytesIO(file_of("WEBP"))) as image:
        assert image.n_frames == 2
        first = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(preprocess(file_of("WEBP")), preprocess(first))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), np.float64),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 3), object),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((), np.uint8),
    ],
)
def test_arrays_of_other_kinds_and_shapes(array):
    with pytest.raises(DataError, match=r"arrays must be uint8 \[H, W, 3\], got"):
        Preprocess(16, 16)(array)


def test_a_size_that_is_only_claimed():
    """The header says 60,000 x 60,000; refused before memory is taken for it."""
    import struct
    import zlib

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    with pytest.raises(DataError, match="3600000000 pixels"):
        Preprocess(16, 16)(content)


def test_values_by_hand():
    preprocess = Preprocess(2, 2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    out = preprocess(np.full((2, 2, 3), [255, 0, 51], dtype=np.uint8))
    assert out.shape == (3, 2, 2) and out.dtype == np.float32
    np.testing.assert_allclose(out[:, 0, 0], [1.0, -1.0, 0.2], rtol=1e-6)


def test_animations_give_their_first_frame(tmp_path):
    first, second = picture("P", 20, 20), picture("P", 20, 21).resize((20, 20))
    path = tmp_path / "moving.gif"
    first.save(path, save_all=True, append_images=[second])
    with Image.open(path) as opened:
        expected = Preprocess(16, 16)(opened.convert("RGB"))
    np.testing.assert_array_equal(Preprocess(16, 16)(path), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_named(tmp_path, kind):
    path = tmp_path / f"cut.{kind.lower()}"
    full = encoded(picture("RGB", 90, 90), kind)
    path.write_bytes(full[: len(full) // 2])
    with pytest.raises(DataError, match=r"cut\."):
        Preprocess(16, 16)(path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_junk_is_named(tmp_path, content):
    path = tmp_path / "junk.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"junk\.jpg"):
        Preprocess(16, 16)(path)
    with pytest.raises(DataError, match="image 7"):
        Preprocess(16, 16).batch([content], first=7)


def test_missing_files_folders_and_other_types(tmp_path):
    with pytest.raises(DataError, match=r"no such image: .*none\.png"):
        Preprocess(16, 16)(tmp_path / "none.png")
    with pytest.raises(DataError, match=str(tmp_path)):
        Preprocess(16, 16)(tmp_path)
    with pytest.raises(DataError, match="got int"):
        Preprocess(16, 16)(3)
    with pytest.raises(DataError, match="uint8"):
        Preprocess(16, 16)(np.zeros((4, 4, 3), dtype=np.float32))
    with pytest.raises(DataError, match=r"shape \[4, 4, 2\]"):
        Preprocess(16, 16)(np.zeros((4, 4, 2), dtype=np.uint8))
    with pytest.raises(DataError, match="empty"):
        Preprocess(16, 16)(np.zeros((0, 4, 3), dtype=np.uint8))


def test_bombs_are_refused_before_they_are_decoded(monkeypatch):
    bomb = encoded(Image.new("1", (3000, 3000)), "PNG")
    monkeypatch.setattr(image_limits, "MAX_PIXELS", 8_000_000)
    with pytest.raises(DataError, match="3000x3000 pixels; at most 8,000,000"):
        Preprocess(16, 16)(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(DataError, match="decompression bomb"):
        Preprocess(16, 16)(bomb)


def test_a_thread_of_pixels_does_not_grow_into_a_bomb():
    with pytest.raises(DataError, match="too long and thin: 1x100000"):
        Preprocess(64, 64)(np.zeros((100_000, 1, 3), dtype=np.uint8))
