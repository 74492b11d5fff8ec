"""Evaluation sets: images with texts, classes and subsets, opened by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tinyclip_edge.data import check_source
from tinyclip_edge.evaluation.class_images import class_images, is_class_image_source
from tinyclip_edge.evaluation.class_names import shared_names
from tinyclip_edge.evaluation.class_shards import (
    class_shard_images,
    class_shard_names,
    is_class_shards,
)
from tinyclip_edge.evaluation.eval_set import EvalSet
from tinyclip_edge.evaluation.run_pairs import NamedPairs, named_pairs
from tinyclip_edge.evaluation.starter_sets import STARTER, starter_set, starter_split
from tinyclip_edge.paths import exists, expanded
from tinyclip_edge.runtime.protocol import ImageInput

if TYPE_CHECKING:
    from PIL import Image

    from tinyclip_edge.data import Losses

_Candidate: TypeAlias = (
    "tuple[str, Path | bytes | Image.Image, tuple[str, ...]]"  # key, image, texts
)


def evaluation_set(source: str, *, limit: int | None = None) -> EvalSet:
    """Open a set by name, with at most ``limit`` images, which stay encoded.

    ``source`` is ``starter:test_style``, ``starter:test_concepts`` or ``starter:val``; a folder or
    tar of images with one folder per class; webdataset shards with ``KEY.cls`` and a
    ``classnames.txt``; pairs in any form that a run reads: shards, a table, COCO's captions, a
    folder with captions; or a run's YAML file, which stands for its ``data.val``. Raises DataError
    if it is missing, empty or broken, and ConfigError for a faulty YAML file.
    """
    named = named_pairs(source)
    if not isinstance(named.source, str):
        return pair_set(named, limit)
    source = named.source
    if source.startswith(STARTER):
        return starter_set(source, limit)
    path = Path(expanded(source))
    if is_class_shards(path):
        return _labelled_set(source, path, limit)
    if is_class_image_source(path):
        return _class_set(source, path, limit)
    return pair_set(named, limit)


def check_set(source: str) -> None:
    """Raise DataError for a set that does not exist, without importing torch or reading it.

    Raises MissingExtraError for a starter set if the starter kit is not installed, and
    ConfigError for a faulty YAML file.
    """
    named = named_pairs(source).source
    if not isinstance(named, str):
        check_source(named)
    elif named.startswith(STARTER):
        from tinyclip_edge.starter import kit_path

        starter_split(named)
        kit_path()
    elif not exists(Path(expanded(named))):
        check_source(named)


def _class_set(source: str, path: Path, limit: int | None) -> EvalSet:
    source_images = class_images(path, limit)
    candidates = ((image.name, image.image, (image.label,)) for image in source_images.images)
    return _decodable(
        source, candidates, limit, notes=source_images.notes, classes=source_images.classes
    )


def _labelled_set(source: str, path: Path, limit: int | None) -> EvalSet:
    from tinyclip_edge.data import Losses

    losses = Losses()
    classes = class_shard_names(path)
    return _decodable(
        source,
        class_shard_images(path, classes, losses),
        limit,
        losses=losses,
        notes=shared_names(classes),
        classes=classes,
    )


def pair_set(named: NamedPairs, limit: int | None) -> EvalSet:
    """Open pairs in any form that a run reads, like ``evaluation_set``."""
    from tinyclip_edge.data import open_source

    pairs = open_source(named.source, named.options)
    candidates = ((pair.key, pair.image, pair.captions) for pair in pairs)
    return _decodable(pairs.name, candidates, limit, losses=pairs.losses, merge=True)


def _decodable(
    source: str,
    candidates: Iterator[_Candidate],
    limit: int | None,
    *,
    losses: Losses | None = None,
    merge: bool = False,
    notes: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> EvalSet:
    """Return the images that decode, up to the limit; DataError if over 1 per cent do not.

    ``merge`` adds the captions of a repeated picture (the same pixels) to its first occurrence.
    """
    from tinyclip_edge.data import BadSamples, Losses, UndecodableImageError, decode_image

    bad_samples = BadSamples(source, losses or Losses())
    pictures = _Pictures(merge=merge)
    total = 0
    for key, image, texts in candidates:
        if limit is not None and len(pictures.images) >= limit:
            break
        total += 1
        try:
            decoded = decode_image(image)
        except UndecodableImageError:
            bad_samples.add(key)
        else:
            pictures.add(image, decoded, texts)
    bad_samples.check(total, final=True)
    captions = tuple(pictures.captions)
    return EvalSet(
        source,
        tuple(pictures.images),
        tuple(first for first, *_ in captions),
        notes=(*notes, *bad_samples.report(total)),
        captions=captions if any(len(texts) > 1 for texts in captions) else (),
        classes=tuple(classes),
    )


class _Pictures:
    """Pictures with captions; with ``merge``, a repeated one adds its captions to the first."""

    def __init__(self, *, merge: bool) -> None:
        self.images: list[ImageInput] = []
        self.captions: list[tuple[str, ...]] = []
        self._merge = merge
        self._positions_by_digest: dict[bytes, int] = {}

    def add(self, image: ImageInput, decoded: Image.Image, texts: tuple[str, ...]) -> None:
        position = len(self.images)
        if self._merge:
            position = self._positions_by_digest.setdefault(_pixel_digest(decoded), position)
        if position == len(self.images):
            self.images.append(image)
            self.captions.append(texts)
            return
        earlier = self.captions[position]
        self.captions[position] = (*earlier, *(text for text in texts if text not in earlier))


def _pixel_digest(image: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()
