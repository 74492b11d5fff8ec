"""Odd captions and odd pictures: what is used, what is counted, and that nothing blows up."""

import struct
import zlib

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageFile

from pair_shards import draw, encoded, toy_samples, write_shard
from tinyclip_edge.data import PairMemory, PixelCodec, open_source
from tinyclip_edge.errors import DataError
from tinyclip_edge.train.tasks.encoders import tokenize

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CODEC = PixelCodec(
    image_transform_v2(PreprocessCfg(size=16, mean=MEAN, std=STD), is_train=False), MEAN, STD
)


def png_of(width, height):
    """A PNG whose header promises a size; a few bytes of black stand for its content."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 400), (400, 1)])
def test_thin_pictures_fill_the_square(width, height):
    pixels = CODEC.decode(encoded(Image.new("RGB", (width, height), (10, 200, 30))))
    assert pixels.shape == (3, 16, 16)
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [10, 200, 30]


def test_cmyk_is_read_as_what_it_shows():
    # No cyan and no black, all magenta and yellow: red.
    pixels = CODEC.decode(encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF"))
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut_off(kind):
    grey = np.array([[0, 12_850, 32_896, 65_535]], dtype=np.uint16)  # n * 257 is n of 255
    for value, expected in zip(grey[0], (0, 50, 128, 255), strict=True):
        file = encoded(Image.fromarray(np.full((20, 20), value, dtype=np.uint16)), kind)
        assert CODEC.decode(file).unique().tolist() == [expected]


def test_a_palette_with_transparency_lies_on_white():
    palette = Image.new("RGBA", (20, 20), (255, 0, 0, 51)).quantize(16)  # a fifth opaque
    pixels = CODEC.decode(encoded(palette))
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [255, 204, 204]


@pytest.mark.parametrize("side", [9_460, 13_500, 60_000, 2**31 - 1])
def test_a_bomb_is_undecodable_and_not_unpacked(monkeypatch, side):
    unpacked = []

    def load(image):
        unpacked.append(image.size)
        raise OSError("enough")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert CODEC.decode(png_of(side, side)) is None  # 89,491,600 pixels at least, 89,478,485 go
    assert unpacked == []
    CODEC.decode(png_of(9_459, 9_459))
    assert unpacked == [(9_459, 9_459)]


def test_bombs_are_counted_as_what_does_not_decode(tmp_path):
    samples = toy_samples((32, 36, 40))
    samples[7][1]["png"] = png_of(60_000, 60_000)
    memory = PairMemory.load(open_source(str(write_shard(tmp_path / "a.tar", samples))), CODEC)
    assert len(memory) == 143
    assert memory.bad.keys == [samples[7][0]]


def test_a_long_caption_is_cut_by_the_tokenizer(tmp_path, toy_teacher):
    text = "cat dog " * 1250  # 10,000 characters
    files = {"png": encoded(draw("red", "bar", "big")), "txt": text.encode()}
    (pair,) = open_source(str(write_shard(tmp_path / "a.tar", [("k", files)])))
    assert len(pair.captions[0]) == 9_999  # without the last blank
    tokens = tokenize(toy_teacher.tokenizer, [pair.captions[0], "cat"])
    assert tokens.shape == (2, 16)
    # Start, words one after the other, and the end that "cat" alone has behind its word.
    start, cat, end = tokens[1, :3].tolist()
    assert tokens[0, 0] == start
    assert tokens[0, 1:15:2].tolist() == [cat] * 7
    assert tokens[0, -1] == end


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"txt": b""}, "'k' has no caption (KEY.txt, or KEY.json 'caption')"),
        ({"txt": b" \n\t\n"}, "'k' has no caption (KEY.txt, or KEY.json 'caption')"),
        ({"json": b'{"caption": ""}'}, "'k' has no caption (KEY.txt, or KEY.json 'caption')"),
        ({"json": b'{"caption": []}'}, "'k' has no caption (KEY.txt, or KEY.json 'caption')"),
        ({"json": b'{"caption": null}'}, "'k' has no caption (KEY.txt, or KEY.json 'caption')"),
        ({"json": b'{"caption": [null]}'}, "'k' has no caption (KEY.txt, or KEY.json 'caption')"),
        ({"txt": "caf\u00e9".encode("latin-1")}, "caption of 'k' cannot be read ("),
        ({"json": b'{"caption": "half \\ud83d"}'}, "caption of 'k' cannot be read ("),
        ({"json": b'{"caption": ' + b"9" * 5000 + b"}"}, "caption of 'k' cannot be read ("),
        ({"json": b"[" * 100_000}, "caption of 'k' cannot be read ("),
    ],
)
def test_captions_that_are_none_are_named(tmp_path, files, message):
    image = {"png": encoded(draw("red", "bar", "big"))}
    path = write_shard(tmp_path / "a.tar", [("k", image | files)])
    with pytest.raises(DataError) as caught:
        list(open_source(str(path)))
    assert f"shard {path}: {message}" in str(caught.value)
