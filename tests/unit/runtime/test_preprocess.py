from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime import images
from tinyclip_edge.runtime.preprocess import CLIP_MEAN, CLIP_STD, Preprocess

MODES = ["RGB", "RGBA", "L", "LA", "P", "P+alpha", "CMYK", "1", "YCbCr"]
SIZES = [(64, 64), (1, 1), (1, 90), (200, 3), (65, 64), (63, 97), (333, 128), (31, 30)]


def picture(mode: str, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode in ("RGBA", "LA"):
        return Image.fromarray(rgba).convert(mode)
    rgb = Image.fromarray(rgba[:, :, :3].copy())
    if mode.startswith("P"):
        palette = rgb.quantize(17)
        if mode == "P+alpha":
            palette.info["transparency"] = 3
        return palette
    return rgb.convert(mode)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


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
            wanted = theirs(image).numpy()
            assert np.abs(wanted - stored(image)).max() == 0.0, (mode, width, height)
            if mode in ("RGB", "L"):
                assert np.abs(wanted - ours(image)).max() == 0.0, (mode, width, height)


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
        wanted = theirs(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(ours(image), wanted, rtol=0, atol=1e-6)


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
        wanted = theirs(image, return_tensors="pt")["pixel_values"][0]
        assert isinstance(wanted, torch.Tensor)
        levels = np.abs(ours(image) - wanted.numpy()) / level
        largest = max(largest, float(levels.max()))
    assert largest == pytest.approx(1.0, abs=1e-3)


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
    wanted = preprocess(image)
    for same in (path, str(path), path.read_bytes(), np.asarray(image)):
        np.testing.assert_array_equal(preprocess(same), wanted)


def test_grey_and_transparent_arrays():
    preprocess = Preprocess(16, 16)
    grey = np.asarray(picture("L", 30, 20))
    np.testing.assert_array_equal(preprocess(grey), preprocess(grey[:, :, None]))
    rgba = picture("RGBA", 30, 20)
    np.testing.assert_array_equal(preprocess(np.asarray(rgba)), preprocess(rgba))


def file_of(kind: str) -> bytes:
    """A file of each odd sort, 90x60 pixels of noise."""
    colours = picture("RGB", 90, 60)
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        buffer = io.BytesIO()
        colours.save(buffer, "JPEG", exif=exif)
        return buffer.getvalue()
    if kind in ("GIF", "WEBP"):
        buffer = io.BytesIO()
        second = picture("RGB", 60, 90).resize((90, 60))
        colours.save(buffer, kind, save_all=True, append_images=[second], duration=50)
        return buffer.getvalue()
    if kind == "palette with alpha":
        palette = colours.quantize(17)
        buffer = io.BytesIO()
        palette.save(buffer, "PNG", transparency=bytes(range(0, 170, 10)))
        return buffer.getvalue()
    form, mode = kind.split()
    return encoded(picture(mode, 90, 60), form)


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
        wanted = theirs(image).numpy()
    np.testing.assert_array_equal(Preprocess(32, 32, as_stored=True)(content), wanted)


def test_as_stored_a_rotation_is_not_made_and_frames_are_not_mixed():
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
        wanted = Preprocess(16, 16)(opened.convert("RGB"))
    np.testing.assert_array_equal(Preprocess(16, 16)(path), wanted)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_named(tmp_path, kind):
    path = tmp_path / f"cut.{kind.lower()}"
    whole = encoded(picture("RGB", 90, 90), kind)
    path.write_bytes(whole[: len(whole) // 2])
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
    monkeypatch.setattr(images, "MAX_PIXELS", 8_000_000)
    with pytest.raises(DataError, match="3000x3000 pixels; at most 8000000"):
        Preprocess(16, 16)(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(DataError, match="decompression bomb"):
        Preprocess(16, 16)(bomb)


def test_a_thread_of_pixels_does_not_grow_into_a_bomb():
    with pytest.raises(DataError, match="too long and thin: 1x100000"):
        Preprocess(64, 64)(np.zeros((100_000, 1, 3), dtype=np.uint8))
