"""Zero-shot classification of images by prompts with class names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation.ranking import hits_at, standard_error
from tinyclip_edge.runtime.prompts import check_prompts, class_features
from tinyclip_edge.runtime.protocol import Embedder, Features, ImageInput


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """Top-1 and top-5 accuracy on ``n`` images, as shares of 1."""

    n: int
    classes: int
    top1: float
    top5: float
    stderr: float  # of top1
    top5_stderr: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def zero_shot(
    embedder: Embedder,
    images: Sequence[ImageInput],
    targets: Sequence[int],
    classnames: Sequence[str],
    templates: Sequence[str] = ("{}",),
) -> ZeroShot:
    """Classify images by prompts averaged over templates.

    ``targets`` are indices into ``classnames``. Warns about prompts beyond the context length.
    Raises DataError if targets do not match the classes, or two classes have the same tokens.
    """
    if len(images) != len(targets):
        raise DataError(f"zero-shot: there are {len(images):,} images but {len(targets):,} targets")
    for note in check_prompts(embedder, classnames, templates):
        warnings.warn(note, stacklevel=2)
    classes = class_features(embedder, classnames, templates)
    return zero_shot_of_features(embedder.encode_image(images), targets, classes)


def zero_shot_of_features(image: Features, targets: Sequence[int], classes: Features) -> ZeroShot:
    """Classify unit-norm ``[N, D]`` against class embeddings ``[C, D]``; ties are averaged.

    Raises DataError without images, and for targets outside the classes.
    """
    if len(image) == 0:
        raise DataError("zero-shot needs at least one image; the set is empty")
    target_indices = np.asarray(targets, dtype=np.int64)
    if target_indices.min() < 0 or target_indices.max() >= len(classes):
        raise DataError(
            f"zero-shot: targets run from {target_indices.min()} to {target_indices.max()}, but "
            f"there are {len(classes):,} classes"
        )
    scores = image @ classes.T
    top1, top5 = (float(hits_at(scores, target_indices, k).mean()) for k in (1, 5))
    n = len(image)
    return ZeroShot(
        n=n,
        classes=len(classes),
        top1=top1,
        top5=top5,
        stderr=standard_error(top1, n),
        top5_stderr=standard_error(top5, n),
    )
