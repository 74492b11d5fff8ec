"""Evaluation sets: images with texts, classes and subsets, opened by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tinyclip_edge.data import check_source
from tinyclip_edge.errors import DataError, did_you_mean
from tinyclip_edge.evaluation.class_images import class_images, is_class_image_source
from tinyclip_edge.evaluation.class_names import shared_names
from tinyclip_edge.evaluation.class_shards import (
    class_shard_images,
    class_shard_names,
    is_class_shards,
)
from tinyclip_edge.evaluation.run_pairs import NamedPairs, named_pairs
from tinyclip_edge.paths import exists, expanded
from tinyclip_edge.runtime.protocol import ImageInput

if TYPE_CHECKING:
    from PIL import Image

    from tinyclip_edge.data import Losses
    from tinyclip_edge.starter.kit import KitSample

STARTER = "starter:"
_Candidate: TypeAlias = (
    "tuple[str, Path | bytes | Image.Image, tuple[str, ...]]"  # key, image, texts
)


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Images with one text each; ``subsets`` are indices, ``companions`` separate sets.

    When images have several captions, ``captions`` has all of them and ``texts`` the first. A
    labelled set has all its class names in ``classes``, also those that no image shows.
    """

    name: str
    images: tuple[ImageInput, ...]
    texts: tuple[str, ...]
    subsets: dict[str, tuple[int, ...]] = field(default_factory=dict)
    companions: dict[str, EvalSet] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    classes: tuple[str, ...] = ()

    def select(self, indices: Sequence[int]) -> EvalSet:
        """Return the set of these images, without subsets and companions."""
        return replace(
            self,
            images=tuple(self.images[i] for i in indices),
            texts=tuple(self.texts[i] for i in indices),
            captions=tuple(self.captions[i] for i in indices) if self.captions else (),
            subsets={},
            companions={},
        )

    def queries(self) -> tuple[list[str], list[int]]:
        """Return every caption and the index of its image."""
        captions = self.captions or [(text,) for text in self.texts]
        return (
            [text for image_captions in captions for text in image_captions],
            [image for image, image_captions in enumerate(captions) for _ in image_captions],
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classnames(self) -> tuple[str, ...]:
        """The distinct classes of a labelled set, else texts, in order of appearance."""
        return tuple(dict.fromkeys(self.classes or self.texts))

    @property
    def targets(self) -> tuple[int, ...]:
        """Index of every image's text in ``classnames``."""
        positions = {name: i for i, name in enumerate(self.classnames)}
        return tuple(positions[text] for text in self.texts)


def evaluation_set(source: str, *, limit: int | None = None) -> EvalSet:
    """Open a set by name, with at most ``limit`` images, which stay encoded.

    ``source`` is ``starter:test_style``, ``starter:test_concepts`` or ``starter:val``; a folder or
    tar of images with one folder per class; webdataset shards with ``KEY.cls`` and a
    ``classnames.txt``; pairs in any form that a run reads: shards, a table, COCO's captions, a
    folder with captions; or a run's YAML file, which stands for its ``data.val``. Raises DataError
    when it is missing, empty or broken, and ConfigError for a faulty YAML file.
    """
    named = named_pairs(source)
    if not isinstance(named.source, str):
        return _pair_set(named, limit)
    source = named.source
    if source.startswith(STARTER):
        return _starter_set(source, limit)
    path = Path(expanded(source))
    if is_class_shards(path):
        return _labelled_set(source, path, limit)
    if is_class_image_source(path):
        return _class_set(source, path, limit)
    return _pair_set(named, limit)


def check_set(source: str) -> None:
    """Raise DataError for a set that does not exist, without importing torch or reading it.

    Raises MissingExtraError for a starter set where the starter kit is not installed, and
    ConfigError for a faulty YAML file.
    """
    named = named_pairs(source).source
    if not isinstance(named, str):
        check_source(named)
    elif named.startswith(STARTER):
        from tinyclip_edge.starter import kit_path

        _starter_name(named)
        kit_path()
    elif not exists(Path(expanded(named))):
        check_source(named)


def _starter_name(source: str) -> str:
    split = source.removeprefix(STARTER)
    if split not in _STARTER_SETS:
        raise DataError(
            f"no starter set {split!r} to evaluate on{did_you_mean(split, _STARTER_SETS)}"
        )
    return split


def _starter_set(source: str, limit: int | None) -> EvalSet:
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    split = _starter_name(source)
    canonical = [sample for sample in read_split(kit_path(), split) if sample.about["canonical"]]
    return _STARTER_SETS[split](source, canonical, limit)


def _test_style(source: str, samples: Sequence[KitSample], limit: int | None) -> EvalSet:
    emoji = _of_kind(samples, "emoji")
    icons = _set(f"{source} icons", _of_kind(samples, "icon"), limit, {})
    subset_filters: dict[str, Callable[[KitSample], bool]] = {
        "without flags": lambda sample: not sample.about["flag"],
        "flags": lambda sample: bool(sample.about["flag"]),
    }
    emoji_set = _set(source, emoji, limit, subset_filters)
    return EvalSet(
        emoji_set.name,
        emoji_set.images,
        emoji_set.texts,
        emoji_set.subsets,
        {"icons": icons} if icons else {},
    )


def _by_kind(source: str, samples: Sequence[KitSample], limit: int | None) -> EvalSet:
    both = [*_of_kind(samples, "emoji"), *_of_kind(samples, "icon")]
    subset_filters: dict[str, Callable[[KitSample], bool]] = {
        "emoji": lambda sample: sample.about["kind"] == "emoji",
        "icons": lambda sample: sample.about["kind"] == "icon",
    }
    return _set(source, both, limit, subset_filters)


_STARTER_SETS: dict[str, Callable[[str, Sequence[KitSample], int | None], EvalSet]] = {
    "test_style": _test_style,
    "test_concepts": _by_kind,
    "val": _by_kind,
}


def _of_kind(samples: Sequence[KitSample], kind: str) -> list[KitSample]:
    return [sample for sample in samples if sample.about["kind"] == kind]


def _set(
    name: str,
    samples: Sequence[KitSample],
    limit: int | None,
    subset_filters: dict[str, Callable[[KitSample], bool]],
) -> EvalSet:
    # One picture per name: a second one would be a right answer counted as wrong.
    by_name: dict[str, KitSample] = {}
    for sample in samples:
        by_name.setdefault(sample.captions[0], sample)
    distinct = _evenly_spaced(list(by_name.values()), limit)
    subsets = {
        label: tuple(i for i, sample in enumerate(distinct) if belongs(sample))
        for label, belongs in subset_filters.items()
    }
    return EvalSet(
        name,
        tuple(sample.webp for sample in distinct),
        tuple(sample.captions[0] for sample in distinct),
        {label: positions for label, positions in subsets.items() if positions},
    )


def _evenly_spaced(samples: list[KitSample], limit: int | None) -> list[KitSample]:
    if limit is None or limit >= len(samples):
        return samples
    return [samples[i * len(samples) // limit] for i in range(limit)]


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


def _pair_set(named: NamedPairs, limit: int | None) -> EvalSet:
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
    """Return the images that decode, up to the limit; DataError when over 1 per cent do not.

    ``merge`` adds the captions of a repeated picture (the same pixels) to its first occurrence.
    """
    from tinyclip_edge.data import BadSamples, Losses, UndecodableImageError, decode_image

    images: list[ImageInput] = []
    captions: list[tuple[str, ...]] = []
    positions_by_digest: dict[bytes, int] = {}
    bad_samples = BadSamples(source, losses or Losses())
    total = 0
    for key, image, texts in candidates:
        if limit is not None and len(images) >= limit:
            break
        total += 1
        try:
            decoded = decode_image(image.read_bytes() if isinstance(image, Path) else image)
        except (UndecodableImageError, OSError):  # OSError: a file that cannot be read
            bad_samples.add(key)
            continue
        position = (
            positions_by_digest.setdefault(_pixel_digest(decoded), len(images))
            if merge
            else len(images)
        )
        if position < len(images):
            image_captions = captions[position]
            captions[position] = (
                *image_captions,
                *(text for text in texts if text not in image_captions),
            )
            continue
        images.append(image)
        captions.append(texts)
    bad_samples.check(total, final=True)
    return EvalSet(
        source,
        tuple(images),
        tuple(image_captions[0] for image_captions in captions),
        notes=(*notes, *bad_samples.report(total)),
        captions=tuple(captions)
        if any(len(image_captions) > 1 for image_captions in captions)
        else (),
        classes=tuple(classes),
    )


def _pixel_digest(image: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()
