"""Check the collections that callers pass: lists, arrays and generators, but not single items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import ImageInput

Item = TypeVar("Item")


def image_list(images: Iterable[ImageInput], caller: str) -> Sequence[ImageInput]:
    """Return the images in order; ``caller`` is named in messages.

    An array is a batch only with four axes ``[N, H, W, C]``: rows of a single picture must not be
    read as pictures. Raise DataError for a single image or an unordered collection.
    """
    if isinstance(images, np.ndarray) and images.dtype != object and images.ndim != 4:
        raise DataError(
            f"{caller} takes a list of images, or one array [N, H, W, 3], "
            f"not an array of shape {list(images.shape)}"
        )
    return _ordered(images, caller, "images")


def text_list(texts: Iterable[str], caller: str) -> tuple[str, ...]:
    """Return the texts in order as plain str; raise DataError for anything else."""
    ordered = _ordered(texts, caller, "texts")
    for text in ordered:
        if not isinstance(text, str):
            raise DataError(f"{caller}: a text must be str, not {type(text).__name__}")
    return tuple(map(str, ordered))  # numpy's str_ too


def label_list(labels: Iterable[str], caller: str = "labels") -> tuple[str, ...]:
    """Return labels or templates in order as plain str.

    Raise DataError for one text, a mapping, a set, or a label that is not a str.
    """
    if isinstance(labels, str):
        raise DataError("labels and templates must be lists of texts, not one text")
    return text_list(labels, caller)


def _ordered(items: Iterable[Item], caller: str, kind: str) -> Sequence[Item]:
    if isinstance(items, (str, bytes, Path)) or getattr(items, "ndim", None) == 0:
        raise DataError(f"{caller} takes a list of {kind}, not a single one")
    if isinstance(items, (Mapping, Set)):
        raise DataError(
            f"{caller} takes a list of {kind}, not a {type(items).__name__}; pass list(…) of the "
            "values you mean"
        )
    if isinstance(items, (Sequence, np.ndarray)):
        return cast("Sequence[Item]", items)  # an array can be sliced and has a length
    try:
        return list(items)
    except TypeError as error:
        raise DataError(f"{caller} takes a list of {kind}, not {type(items).__name__}") from error
