"""Golden vectors: inputs with the embeddings of the bundle at export."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_edge.precisions import replay_cosine
from tinyclip_edge.runtime.golden import pixels_hash
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.session import full_batch
from tinyclip_edge.runtime.vectors import unit
from tinyclip_export.layout import IMAGE_IO, TEXT_IO, InputForm, TowerIO
from tinyclip_export.verification.embeddings import Ids, Session, TowerFiles, pixel_rows, token_rows

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

# Synthetic, so that a bundle never contains pictures or captions of the person who exported it.
TEXTS = ("a red heart", "2 dogs", "an umbrella in the rain", "arrow pointing left")
_SIDE = 48  # pixels; the replay includes resizing


def golden_images() -> list[Image.Image]:
    """Return four small RGB patterns from integer arithmetic, which are the same everywhere."""
    y, x = np.mgrid[0:_SIDE, 0 : _SIDE + 16]
    patterns = (
        np.stack([x * 4, y * 5, (x + y) * 2], axis=-1),
        np.stack([(x // 8 + y // 8) % 2 * 255] * 3, axis=-1),
        np.stack([(x * y) % 256, 255 - x * 3, y * 0 + 90], axis=-1),
        np.stack(
            [np.where((x - 32) ** 2 + (y - 24) ** 2 < 300, 255, c) for c in (20, 90, 160)], -1
        ),
    )
    return [Image.fromarray((pattern % 256).astype(np.uint8)) for pattern in patterns]


def golden_vectors(clip: LoadedClip, towers: Sequence[TowerFiles], *, eot: int) -> dict[str, Any]:
    """Return the manifest's ``golden``: PNG and pixel hash, text and ids, embeddings in base64.

    Embeddings are little-endian float32 ``[4, D]``, one input at a time.
    """
    images = golden_images()
    pixels = pixel_rows(clip, images)
    form = towers[0].form
    rows = token_rows(clip.tokenizer(list(TEXTS)).numpy(), eot, form)
    return {
        "batch": 1,
        "padding": form.padding,
        "images": [
            {"png": _png(image), "pixels_sha256": pixels_hash(row)}
            for image, row in zip(images, pixels, strict=True)
        ],
        "texts": [
            {"text": text, "input_ids": row[0].tolist()}
            for text, row in zip(TEXTS, rows, strict=True)
        ],
        "least_cosine": {each.precision: replay_cosine(each.precision) for each in towers},
        "embeddings": {tower.precision: _embeddings(tower, pixels, rows) for tower in towers},
    }


def _embeddings(tower: TowerFiles, pixels: Features, rows: Sequence[Ids]) -> dict[str, str]:
    image, text = tower.open("image"), tower.open("text")
    features = {
        "image": [_embed(image, IMAGE_IO, row[None], tower.form) for row in pixels],
        "text": [_embed(text, TEXT_IO, row, tower.form) for row in rows],
    }
    # In float16 a graph's norms are off by up to 0.0005; the runtime normalises them too.
    return {
        key: _base64(unit(np.concatenate(value)).astype("<f4")) for key, value in features.items()
    }


def _embed(session: Session, io: TowerIO, row: npt.NDArray[Any], form: InputForm) -> Features:
    features: Features = session.run(None, {io.input_name: full_batch(row, form.batch)})[0][:1]
    return features


def _base64(array: Features) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
