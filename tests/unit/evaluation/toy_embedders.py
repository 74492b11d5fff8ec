"""Embedders whose answers are known, and files of coloured squares."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import ClassVar

import numpy as np
from PIL import Image

from tinyclip_edge.runtime.protocol import EmbedderSpec


class TableEmbedder:
    """Looks features up: images are numbers in disguise, texts are keys."""

    name = "table"
    logit_scale = 10.0
    spec = EmbedderSpec(8, 4, 1_000_000, 500, 2_000_000, "torch", "fp32")

    def __init__(self, images, texts):
        self.images = np.asarray(images, dtype=np.float32)
        self.texts = {key: np.asarray(row, dtype=np.float32) for key, row in texts.items()}

    def encode_image(self, images):
        return self.images[list(images)]

    def encode_text(self, texts):
        return np.stack([self.texts[text] for text in texts])


class ColourEmbedder:
    """Sees the mean colour of an image and reads colour names: a model that can be right."""

    name = "colours"
    logit_scale = 10.0
    spec = EmbedderSpec(8, 3, 3, 0, 1_000, "torch", "fp32")
    words: ClassVar = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "grey": (1, 1, 1)}

    def encode_image(self, images):
        from tinyclip_edge.runtime.images import open_image

        means = [np.asarray(open_image(x).convert("RGB")).mean(axis=(0, 1)) for x in images]
        return unit_rows(np.array(means) + 1e-3)

    def encode_text(self, texts):
        return unit_rows(np.array([self.words[text.split()[-1]] for text in texts], dtype=float))


def unit_rows(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def square(colour, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path, members, *, zipped=False):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def write_kit(folder, split, samples):
    """Samples are (caption, colour, about)."""
    members = []
    for i, (caption, colour, about) in enumerate(samples):
        facts = {"concept": caption, "kind": "emoji", "flag": False, "canonical": True, **about}
        members += [
            (f"s{i}.webp", square(colour, "WEBP")),
            (f"s{i}.txt", f"{caption}\nmore words\n".encode()),
            (f"s{i}.json", json.dumps(facts).encode()),
        ]
    write_tar(folder / f"{split}-00000.tar.gz", members, zipped=True)
