"""Tiny webdataset shards of coloured shapes, written by tests that need pairs."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30), "blue": (30, 60, 220), "green": (20, 160, 60), "black": (0, 0, 0),
    "orange": (250, 150, 0), "purple": (130, 20, 160),
}  # fmt: skip
SHAPES = ("square", "circle", "bar", "cross")
SIZES = {"small": 6, "big": 12}
Sample = tuple[str, dict[str, bytes]]


def draw(colour: str, shape: str, size: str, side: int = 32) -> Image.Image:
    """One shape on white."""
    image = Image.new("RGB", (side, side), "white")
    pen, half, middle = ImageDraw.Draw(image), SIZES[size], side // 2
    box = (middle - half, middle - half, middle + half, middle + half)
    flat = (middle - half, middle - 2, middle + half, middle + 2)
    upright = (middle - 2, middle - half, middle + 2, middle + half)
    fill = COLOURS[colour]
    if shape == "square":
        pen.rectangle(box, fill)
    elif shape == "circle":
        pen.ellipse(box, fill)
    else:
        pen.rectangle(flat, fill)
        if shape == "cross":
            pen.rectangle(upright, fill)
    return image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """An image file in memory."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def toy_samples(styles: Sequence[int] = (32,)) -> list[Sample]:
    """48 concepts, one picture per style (its size in pixels), two captions each."""
    samples = []
    for colour, shape, size in itertools.product(COLOURS, SHAPES, SIZES):
        for style in styles:
            about: dict[str, Any] = {"concept": f"{size} {colour} {shape}", "family": style}
            text = f"{size} {colour} {shape}\na photo of the {colour} {shape}, {size}\n"
            files = {
                "png": encoded(draw(colour, shape, size, style)),
                "txt": text.encode(),
                "json": json.dumps(about).encode(),
            }
            samples.append((f"{size}-{colour}-{shape}-{style}", files))
    return samples


def write_shard(path: Path, samples: Sequence[Sample]) -> Path:
    """Write a .tar, or a .tar.gz if the path says so."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key, files in samples:
            for suffix, data in files.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    data = buffer.getvalue()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
