"""Measure how to tell pictures like the training's from others, for the manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyclip_edge.runtime.familiarity import (
    LOOKS,
    Distance,
    Familiarity,
    looks,
    packed,
    quantiles,
    unpacked,
    whitened,
)
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.verification.embeddings import CHUNK, TimedEmbeddings, pixel_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.runtime.protocol import ImageInput
    from tinyclip_export.export_job import ExportJob

UNFAMILIAR = 0.01  # share of familiar pictures that may be judged unfamiliar
MIN_VERIFIED = math.ceil(1 / UNFAMILIAR) - 1  # fewer cannot resolve that share
MIN_TRAINING = 4  # pictures per dimension of an embedding; with fewer, directions are unreliable
MAX_BYTES = 32_000  # of the embedding's directions, one byte per value


def measure_familiarity(
    job: ExportJob, embeddings: Mapping[str, TimedEmbeddings]
) -> dict[str, Any]:
    """Return the manifest's ``familiarity``; empty without training pictures, or with too few.

    The directions come from training pictures; the quantiles and the thresholds come from the
    verification pictures, which the training has not seen.
    """
    images = job.pairs[0]
    if job.settings.training is None or len(images) < MIN_VERIFIED:
        return {}
    pictures = job.settings.training()
    if len(pictures) < MIN_TRAINING * job.clip.embedding_dim:
        return {}
    job.settings.notify(f"measuring {len(pictures):,} training pictures")
    features, seen = _measured(job.clip, pictures, encode=True)
    _, verified = _measured(job.clip, images, encode=False)
    width = job.clip.embedding_dim
    # At most the half that varies least: in the others, pictures of all kinds differ.
    embedding = packed(*whitened(features, min(width // 2, MAX_BYTES // width)))
    look = packed(*whitened(seen, LOOKS))
    look["quantiles"] = quantiles(unpacked(look, [0.0], LOOKS).values(verified))
    look_distance = unpacked(look, look["quantiles"], LOOKS)
    entries = {}
    for precision in job.precisions:
        image = embeddings[precision].image
        listed = quantiles(unpacked(embedding, [0.0], width).values(image))
        distance = unpacked(embedding, listed, width)
        threshold = _threshold(distance, look_distance, image, verified)
        entries[precision] = {"quantiles": listed, "threshold": threshold}
    return {
        "embedding": embedding,
        "looks": look,
        "precisions": entries,
        "pictures": {"training": len(pictures), "verification": len(images)},
    }


def _threshold(embedding: Distance, look: Distance, image: Features, seen: Features) -> float:
    """Return the p-value below which at most a share UNFAMILIAR of the pictures lies."""
    values = np.sort(Familiarity(embedding, look, 0.0).rarity(image, seen))
    value = float(values[math.floor((len(values) + 1) * UNFAMILIAR)])
    return math.floor(value * 1e6) / 1e6  # rounded down, so as not to exceed the value


def _measured(
    clip: LoadedClip, images: Sequence[ImageInput], *, encode: bool
) -> tuple[Features, Features]:
    """Return embeddings ``[N, D]`` by PyTorch, if requested, and the looks ``[N, 7]``."""
    parts = list(_parts(clip, images, encode=encode))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _parts(
    clip: LoadedClip, images: Sequence[ImageInput], *, encode: bool
) -> Iterator[tuple[Features, Features]]:
    import torch

    for start in range(0, len(images), CHUNK):
        pixels = pixel_rows(clip, images[start : start + CHUNK], first=start)
        features = np.empty((len(pixels), 0), np.float32)
        if encode:
            with torch.inference_mode():
                encoded = clip.model.encode_image(torch.from_numpy(pixels), normalize=True)  # type: ignore[operator]
            features = encoded.numpy()
        yield features, looks(pixels)
