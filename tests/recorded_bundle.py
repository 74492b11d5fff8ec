"""A tiny bundle with golden vectors, computed from its weights."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tiny_bundle import TinyBundle
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.runtime.golden import pixels_hash


def encoded(rows) -> str:
    """Embeddings as the manifest has them."""
    return base64.b64encode(np.stack(rows).astype("<f4").tobytes()).decode()


def png(colour: str) -> str:
    """A golden picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def change_manifest(folder: Path, **keys) -> None:
    """Replace keys of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def write_recorded_bundle(tiny: TinyBundle, folder: Path) -> Path:
    """Write a copy of the tiny bundle with golden vectors."""
    shutil.copytree(tiny.folder, folder)
    clip = EdgeCLIP.load(folder)
    colours, texts = ("red", "green", "blue"), ("cat", "re")
    pixels = [clip.preprocess(Image.new("RGB", (8, 8), colour)) for colour in colours]
    ids = [clip.token_ids(text) for text in texts]
    rows = {
        "image": encoded([tiny.expected_image(each) for each in pixels]),
        "text": encoded([tiny.expected_text(each) for each in ids]),
    }
    change_manifest(
        folder,
        golden={
            "images": [
                {"png": png(colour), "pixels_sha256": pixels_hash(each)}
                for colour, each in zip(colours, pixels, strict=True)
            ],
            "texts": [
                {"text": text, "input_ids": each} for text, each in zip(texts, ids, strict=True)
            ],
            "embeddings": {"fp32": rows, "int8": rows},
        },
    )
    return folder
