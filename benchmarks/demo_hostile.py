"""Hostile uploads: broken files, decompression bombs, files that are not pictures."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image, PngImagePlugin

FORMATS = ("png", "jpeg", "gif", "webp", "bmp", "tiff")
STRANGERS = {
    "page.html": b"<html><script>alert(1)</script></html>",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "paper.pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n0 0 moveto\n",
    "tool.exe": b"MZ" + bytes(200),
    "archive.zip": b"PK\x03\x04" + bytes(100),
    "pickle.png": b"\x80\x04\x95" + bytes(50),
    "empty.png": b"",
    "one.jpg": b"\xff",
}


def hostile_uploads(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` names and contents: other file types and bombs, then fuzzed images."""
    fixed = [*STRANGERS.items(), *_bombs()]
    yield from fixed[:count]
    draw = random.Random(seed)
    images = [(kind, _picture(kind)) for kind in FORMATS]
    for number in range(count - len(fixed)):
        kind, image = images[number % len(images)]
        yield f"fuzzed-{number}.{kind}", _fuzzed(bytearray(image), draw)


def _bombs() -> list[tuple[str, bytes]]:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 60_000_000, zip=True)
    noted = io.BytesIO()
    Image.new("RGB", (8, 8)).save(noted, "png", pnginfo=text)
    frames = io.BytesIO()
    Image.new("P", (64, 64)).save(
        frames, "gif", save_all=True, append_images=[Image.new("P", (64, 64), i) for i in range(99)]
    )
    return [
        ("claims-3600-million.png", _png(60_000, 60_000, b"")),
        ("144-million.png", _png(12_000, 12_000, bytes(12_000 * 36_001))),
        ("36-million.png", _png(6_000, 6_000, bytes(6_000 * 18_001))),
        ("thin.png", _png(1, 1_000_000, bytes(4 * 1_000_000))),
        ("no-width.png", _png(0, 5, b"")),
        ("text-of-60-mb.png", noted.getvalue()),
        ("hundred-frames.gif", frames.getvalue()),
    ]


def _png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG that claims any size, with rows that each start with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = random.Random(1).randbytes(96 * 96 * 3)
    Image.frombytes("RGB", (96, 96), noise).save(buffer, kind)
    return buffer.getvalue()


def _fuzzed(content: bytearray, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return bytes(content[: draw.randrange(len(content))])
    for _ in range(draw.choice((1, 4, 16, 64))):
        # Headers matter most, so they are changed most often.
        end = draw.choice((64, 512, len(content)))
        content[draw.randrange(min(end, len(content)))] = draw.randrange(256)
    return bytes(content)
