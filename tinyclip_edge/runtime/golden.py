"""A bundle's golden vectors: compare the embeddings of this machine with the exporter's."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from tinyclip_edge.errors import BundleError
from tinyclip_edge.precisions import replay_cosine
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.images import open_image
from tinyclip_edge.runtime.placement import Placement
from tinyclip_edge.runtime.protocol import Features, ImageInput

_ROUNDS = 5

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of the replay in one precision."""

    precision: str
    image_cosine: float  # minimum over the golden images
    text_cosine: float
    least: float  # minimum cosine of both towers
    image_ms: float  # median of one image, preprocessing included
    text_ms: float
    same_ids: bool  # texts give the token ids of the exporting machine
    same_pixels: bool  # images give its pixels, bit for bit
    worst_image: int = 0  # position of the golden image with the lowest cosine
    worst_text: int = 0
    # tower -> where its nodes ran; empty for the CPU
    placement: Mapping[str, Placement] = field(default_factory=dict)

    @property
    def min_cosine(self) -> float:
        """The minimum over both towers."""
        return min(self.image_cosine, self.text_cosine)

    @property
    def failures(self) -> tuple[str, ...]:
        """Problems, one text each; differing pixels do not count if the embeddings agree."""
        failures = []
        if not self.same_ids:
            failures.append("texts give different token ids")
        for name, cosine, worst in (
            ("image", self.image_cosine, self.worst_image),
            ("text", self.text_cosine, self.worst_text),
        ):
            if not cosine >= self.least:
                failures.append(
                    f"{name} cosine {cosine:.5f} is below {self.least} (golden {name} {worst})"
                )
        return tuple(failures)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "precision": self.precision,
            "passed": not self.failures,
            "failures": list(self.failures),
            "image_cosine": round(self.image_cosine, 7),
            "text_cosine": round(self.text_cosine, 7),
            "least_cosine": self.least,
            "image_ms": round(self.image_ms, 3),
            "text_ms": round(self.text_ms, 3),
            "same_ids": self.same_ids,
            "same_pixels": self.same_pixels,
            "placement": {tower: each.as_dict() for tower, each in self.placement.items()},
        }


@dataclass(frozen=True, slots=True)
class _Golden:
    images: tuple[Image.Image, ...]
    pixels: tuple[str, ...]
    texts: tuple[str, ...]
    ids: tuple[list[int], ...]
    image: Features  # [N, D]
    text: Features


class GoldenClip(Protocol):
    """What a replay needs from an open bundle."""

    folder: Path
    manifest: Manifest
    precision: str

    @property
    def placement(self) -> Mapping[str, Placement]:
        """Where the nodes of each tower ran."""
        ...

    @property
    def preprocess(self) -> Callable[[ImageInput], Features]:
        """Return the pixels ``[3, H, W]`` of one image."""
        ...

    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ...

    def encode_image(self, images: Iterable[ImageInput]) -> Features:
        """Return float32 ``[N, D]``."""
        ...

    def encode_text(self, texts: Iterable[str]) -> Features:
        """Return float32 ``[N, D]``."""
        ...


def compare(clip: GoldenClip) -> Replay:
    """Encode the golden inputs, one at a time, and compare with the recorded embeddings.

    Raise BundleError if the bundle has no golden vectors for this precision.
    """
    golden = _read(clip.folder, clip.manifest.golden, clip.precision, clip.manifest.embedding_dim)
    image, image_ms = timed_rows(lambda item: clip.encode_image([item]), golden.images)
    text, text_ms = timed_rows(lambda item: clip.encode_text([item]), golden.texts)
    image_cosines = (image * golden.image).sum(axis=1)
    text_cosines = (text * golden.text).sum(axis=1)
    return Replay(
        precision=clip.precision,
        image_cosine=float(image_cosines.min()),
        text_cosine=float(text_cosines.min()),
        least=replay_cosine(clip.precision),
        image_ms=image_ms,
        text_ms=text_ms,
        same_ids=[clip.token_ids(text) for text in golden.texts] == list(golden.ids),
        same_pixels=tuple(pixels_hash(clip.preprocess(i)) for i in golden.images) == golden.pixels,
        worst_image=int(image_cosines.argmin()),
        worst_text=int(text_cosines.argmin()),
        placement=dict(clip.placement),
    )


def pixels_hash(pixels: Features) -> str:
    """Return the SHA-256 of preprocessed pixels ``[3, H, W]`` as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(pixels, dtype="<f4").tobytes()).hexdigest()


def decode_image(png: str) -> Image.Image:
    """Return the image of a golden ``png`` entry; raise DataError for a broken one."""
    return open_image(base64.b64decode(png), "golden image")


def decode_embeddings(text: str, rows: int) -> Features:
    """Return float32 ``[rows, D]`` of a golden ``embeddings`` entry."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(rows, -1)


def _read(folder: Path, golden: Mapping[str, Any], precision: str, width: int) -> _Golden:
    try:
        images, texts = golden["images"], golden["texts"]
        embeddings = golden["embeddings"][precision]
        content = _Golden(
            images=tuple(decode_image(entry["png"]) for entry in images),
            pixels=tuple(entry["pixels_sha256"] for entry in images),
            texts=tuple(str(entry["text"]) for entry in texts),
            ids=tuple(list(entry["input_ids"]) for entry in texts),
            image=decode_embeddings(embeddings["image"], len(images)),
            text=decode_embeddings(embeddings["text"], len(texts)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"bundle {folder} has no golden vectors for {precision}; export it again"
        ) from error
    if not images or not texts or {content.image.shape[1], content.text.shape[1]} != {width}:
        raise BundleError(
            f"bundle {folder}: golden vectors for {precision} do not have {width} dimensions"
        )
    return content


def timed_rows(encode: Callable[[Item], Features], items: Sequence[Item]) -> tuple[Features, float]:
    """Return the rows ``[1, D]`` of all items as one array, and the median milliseconds of one."""
    features = np.concatenate([encode(item) for item in items])
    seconds = []
    for _ in range(_ROUNDS):
        for item in items:
            started = time.perf_counter()
            encode(item)
            seconds.append(time.perf_counter() - started)
    return features, 1e3 * float(np.median(seconds))
