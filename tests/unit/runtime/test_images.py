"""One file, one array of pixels: whichever way it comes in, and whatever form it is stored in."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.image_formats import FORMATS, IMAGE_SUFFIXES, is_image_name
from tinyclip_edge.runtime.images import image_header, open_image
from tinyclip_edge.runtime.preprocess import Preprocess

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
# Orientation by EXIF's number, and where the two rows [[1, 2, 3], [4, 5, 6]] stand upright:
# CIPA DC-008, figure of tag 0x0112.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ways_in(content: bytes, path) -> list[object]:
    """The same picture as path, text of a path, bytes, and Pillow's opened image."""
    path.write_bytes(content)
    return [path, str(path), content, memoryview(content), Image.open(io.BytesIO(content))]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    rows = np.array(UPRIGHT[1], dtype=np.uint8) * 40
    picture = Image.fromarray(np.stack([rows] * 3, axis=-1))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(picture, kind, exif=exif, **options)
    for image in ways_in(content, tmp_path / "turned"):
        shown = open_image(image)
        assert (np.asarray(shown)[:, :, 0] // 40).tolist() == UPRIGHT[orientation]
        # What was opened once may be opened again: not turned a second time.
        np.testing.assert_array_equal(open_image(shown), shown)
    if kind != "TIFF":  # Pillow itself turns those
        stored = np.asarray(open_image(content, as_stored=True))
        np.testing.assert_array_equal(stored[:, :, 0], rows)


def test_a_jpeg_of_a_phone_is_read_as_the_upright_picture():
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((120, 80), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    content = encoded(lying, "JPEG", exif=exif, quality=100, subsampling=0)
    pixels = Preprocess(32, 32).pixels(content).astype(int)
    assert np.abs(pixels - Preprocess(32, 32).pixels(picture)).mean() < 2
    stored = Preprocess(32, 32, as_stored=True).pixels(content).astype(int)
    assert np.abs(stored - pixels).mean() > 20


def test_broken_metadata_leaves_the_picture(tmp_path):
    for exif in (b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"):
        content = encoded(Image.new("RGB", (3, 2), "red"), "WEBP", exif=exif)
        assert open_image(content).size == (3, 2)


# Black, with alpha 0, 51 (a fifth) and 255: white, four fifths of white, black.
CLEAR = np.array([[[0, 0, 0, 0], [0, 0, 0, 51], [0, 0, 0, 255]]], dtype=np.uint8)
ON_WHITE = [255, 204, 0]


def palette_with_alpha(rgba):
    image = rgba.convert("RGB").convert("P").convert("PA")
    image.putalpha(rgba.getchannel("A"))
    return image


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "PA", "array", "WEBP"])
def test_transparency_lies_on_white(kind):
    rgba = Image.fromarray(CLEAR)
    image = {
        "RGBA": lambda: encoded(rgba),
        "LA": lambda: encoded(rgba.convert("LA")),
        "P": lambda: encoded(rgba.quantize(4)),
        "PA": lambda: palette_with_alpha(rgba),
        "array": lambda: CLEAR,
        "WEBP": lambda: encoded(rgba, "WEBP", lossless=True, exact=True),
    }[kind]()
    shown = open_image(image)
    assert shown.mode == "RGB"
    assert np.asarray(shown)[0].tolist() == [[value] * 3 for value in ON_WHITE]
    assert open_image(image, as_stored=True).convert("RGB").getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_transparent_colour_lies_on_white(mode):
    colour = 7 if mode == "L" else (7, 8, 9)
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), 90 if mode == "L" else (90, 90, 90))
    shown = open_image(encoded(image, transparency=colour))
    assert [shown.getpixel((0, 0)), shown.getpixel((1, 0))] == [(255,) * 3, (90,) * 3]


def test_palettes_are_resized_as_the_colours_they_show():
    """Resized as numbers of a palette, half black and half white would stay black or white."""
    image = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (64, 32)))
    for same in (encoded(image.convert("P")), encoded(image.convert("1")), image):
        assert abs(int(Preprocess(8, 8).pixels(same).mean()) - 127) <= 1
        assert Preprocess(8, 8).pixels(same).std() < 20


GREYS = np.array([[0, 4096, 12_850, 32_896, 65_535]], dtype=np.uint16)
EIGHT_BITS = [0, 16, 50, 128, 255]  # of n * 257, and 4096 / 257 rounded


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled_whichever_way_they_come(tmp_path, kind):
    content = encoded(Image.fromarray(GREYS), kind)
    for image in [*ways_in(content, tmp_path / "grey"), Image.fromarray(GREYS), GREYS]:
        assert np.asarray(open_image(image))[0, :, 0].tolist() == EIGHT_BITS
        stored = np.asarray(open_image(image, as_stored=True))
        assert stored[0].tolist() == EIGHT_BITS


def test_sixteen_bit_colours_of_an_array_are_read_as_those_of_a_file():
    colours = np.stack([GREYS] * 3, axis=-1)
    assert np.asarray(open_image(colours))[0, :, 1].tolist() == [0, 16, 50, 128, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen_are_refused_whichever_way_they_come(tmp_path, kind):
    twelve = (GREYS >> 4).astype(np.uint16)
    content = encoded(Image.fromarray(twelve), kind)
    for image in [*ways_in(content, tmp_path / "grey"), Image.fromarray(twelve), twelve]:
        with pytest.raises(
            DataError, match="at most 4095, which may be values of 12 bits or fewer"
        ):
            open_image(image)
    # Nothing but black is black in any number of bits.
    assert np.asarray(open_image(np.zeros((2, 2), np.uint16))).max() == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.linspace(0, 1, 8, dtype=np.float32)[None], "float pixels"),
        (np.array([[0, 1, 70_000]], dtype=np.int32), "32-bit integer pixels"),
        (np.array([[np.nan, 1, 2]], dtype=np.float32), "float pixels"),
    ],
)
def test_pixels_of_unknown_range_are_refused_whichever_way_they_come(tmp_path, values, message):
    content = encoded(Image.fromarray(values), "TIFF")
    for image in [*ways_in(content, tmp_path / "x.tif"), Image.fromarray(values)]:
        for as_stored in (False, True):
            with pytest.raises(DataError, match=f"{message} of unknown range: scale"):
                open_image(image, as_stored=as_stored)
    with pytest.raises(DataError, match=f"must be uint8.*got {values.dtype}"):
        open_image(values)


# A fresh interpreter whose first audit hook sees every program that is started.
STARTS = """
import sys
from pathlib import Path
started = []
sys.addaudithook(lambda event, _: started.append(event) if event == "subprocess.Popen" else None)
from PIL import Image
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.images import image_header, open_image
for image in (Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()):
    for opened in (open_image, image_header):
        try:
            opened(image)
        except DataError as error:
            print(error)
print(started, "EPS" in Image.OPEN)
try:
    open_image(Image.open(sys.argv[1]))  # the caller's own Pillow opened this one
except DataError as error:
    print(error)
print(started)
"""


def test_postscript_never_reaches_a_decoder(tmp_path):
    path = tmp_path / "picture.png"  # whatever its name says
    path.write_bytes(EPS)
    done = subprocess.run(
        [sys.executable, "-c", STARTS, str(path)], capture_output=True, text=True, check=True
    )
    *refused, first, own, second = done.stdout.splitlines()
    assert len(refused) == 4
    assert all("is not a supported image: JPEG, PNG" in line for line in refused)
    assert (first, second) == ("[] False", "[]")
    assert "not a supported image: EPS; convert it first" in own


@pytest.mark.parametrize("kind", ["TGA", "PCX", "SGI", "ICO", "JPEG2000", "IM", "DDS"])
def test_formats_outside_the_table_are_refused(kind):
    content = encoded(Image.new("RGB", (16, 16), "red"), kind)
    with pytest.raises(DataError, match=r"not a supported image|cannot be decoded"):
        open_image(content)
    with Image.open(io.BytesIO(content)) as image, pytest.raises(DataError, match="convert it"):
        open_image(image)


@pytest.mark.parametrize("one", [one for one in FORMATS if one.plugin], ids=lambda one: one.name)
def test_formats_of_the_table_open(one):
    content = encoded(Image.new("RGB", (16, 8), (250, 2, 3)), one.name)
    assert image_header(content) == (one.name, 16, 8)
    red, green, blue = open_image(content).getpixel((3, 3))
    assert red > 240 and green < 15 and blue < 15
    assert set(one.suffixes) <= set(IMAGE_SUFFIXES)


def test_names_of_images():
    assert is_image_name("trip/a.JPG") and is_image_name("a.b.Tiff") and is_image_name("x.avif")
    assert not any(map(is_image_name, ("a.txt", "jpg", ".jpg", "a.eps", "trip/._a.jpg", "a.svg")))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def test_heic_names_the_package_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(HEIC)
    for image in (path, HEIC):
        with pytest.raises(DataError, match=r"is HEIC, .*pip install pillow-heif$") as caught:
            open_image(image)
        assert "\n" not in str(caught.value)


def test_heic_opens_once_the_package_is_there(monkeypatch):
    def register() -> None:
        Image.OPEN["HEIF"] = (lambda *_: Image.new("RGB", (5, 4)), lambda head: b"heic" in head)

    package = types.SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    assert open_image(HEIC).size == (5, 4)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with contextlib.closing(open_both_ends(tmp_path / "a.png")):
        for name in (tmp_path / "a.png", "/dev/null"):
            with pytest.raises(DataError, match=f"{name} is not a file"):
                open_image(name)


def open_both_ends(pipe):
    """Open a pipe with some bytes in it, so that whoever reads it would not wait for ever."""
    file = open(os.open(pipe, os.O_RDWR), "wb", buffering=0)  # noqa: SIM115, PTH123
    file.write(bytes(100))
    return file


def test_pillow_prints_nothing_of_a_broken_file(tmp_path):
    content = encoded(Image.new("RGB", (4, 4)), "TIFF")
    samples = struct.pack("<HHI", 277, 3, 1)  # the tag SamplesPerPixel, one short number
    at = content.index(samples) + len(samples)
    (tmp_path / "a.tif").write_bytes(content[:at] + b"\xff\xff" + content[at + 2 :])
    code = (
        "import sys; from tinyclip_edge.runtime.images import open_image\n"
        "try: open_image(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a.tif")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("DataError\n", "")
