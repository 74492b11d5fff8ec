"""Named sets of images with texts, classes and subsets to measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tinyclip_edge.data import check_source
from tinyclip_edge.errors import DataError, did_you_mean
from tinyclip_edge.evaluation.class_images import class_images, holds_class_images
from tinyclip_edge.evaluation.class_shards import class_shard_images, is_class_shards
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
    """Images with one text each; ``subsets`` are positions, ``companions`` sets of their own.

    Where images have several captions, ``captions`` are all of each and ``texts`` the first.
    """

    name: str
    images: tuple[ImageInput, ...]
    texts: tuple[str, ...]
    subsets: dict[str, tuple[int, ...]] = field(default_factory=dict)
    companions: dict[str, EvalSet] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()

    def queries(self) -> tuple[list[str], list[int]]:
        """Return every caption and the position of its image."""
        captions = self.captions or [(text,) for text in self.texts]
        return (
            [text for own in captions for text in own],
            [image for image, own in enumerate(captions) for _ in own],
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classnames(self) -> tuple[str, ...]:
        """The distinct texts, in order of appearance."""
        return tuple(dict.fromkeys(self.texts))

    @property
    def targets(self) -> tuple[int, ...]:
        """Position of every image's text in ``classnames``."""
        place = {name: i for i, name in enumerate(self.classnames)}
        return tuple(place[text] for text in self.texts)


def evaluation_set(source: str, *, limit: int | None = None) -> EvalSet:
    """Open a set by name; images stay encoded, at most ``limit`` of them.

    ``starter:test_style``, ``starter:test_concepts``, ``starter:val``; a folder or tar of images
    whose folders are the classes; webdataset shards with ``KEY.cls`` and a ``classnames.txt``; or
    pairs as a run reads them: shards, a table, COCO's captions, a folder with captions. Raise
    DataError when it is missing, empty or broken.
    """
    if source.startswith(STARTER):
        return _starter_set(source, limit)
    path = Path(expanded(source))
    if is_class_shards(path):
        return _labelled_set(source, path, limit)
    if holds_class_images(path):
        return _class_set(source, path, limit)
    return _shard_set(source, limit)


def check_set(source: str) -> None:
    """Raise DataError for a set that is not there, without importing torch or reading it."""
    if source.startswith(STARTER):
        _starter_name(source)
    elif not exists(Path(expanded(source))):
        check_source(source)


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
    emoji = _kind(samples, "emoji")
    icons = _set(f"{source} icons", _kind(samples, "icon"), limit, {})
    cuts: dict[str, Callable[[KitSample], bool]] = {
        "without flags": lambda sample: not sample.about["flag"],
        "flags": lambda sample: bool(sample.about["flag"]),
    }
    found = _set(source, emoji, limit, cuts)
    return EvalSet(
        found.name, found.images, found.texts, found.subsets, {"icons": icons} if icons else {}
    )


def _by_kind(source: str, samples: Sequence[KitSample], limit: int | None) -> EvalSet:
    both = [*_kind(samples, "emoji"), *_kind(samples, "icon")]
    cuts: dict[str, Callable[[KitSample], bool]] = {
        "emoji": lambda sample: sample.about["kind"] == "emoji",
        "icons": lambda sample: sample.about["kind"] == "icon",
    }
    return _set(source, both, limit, cuts)


_STARTER_SETS: dict[str, Callable[[str, Sequence[KitSample], int | None], EvalSet]] = {
    "test_style": _test_style,
    "test_concepts": _by_kind,
    "val": _by_kind,
}


def _kind(samples: Sequence[KitSample], kind: str) -> list[KitSample]:
    return [sample for sample in samples if sample.about["kind"] == kind]


def _set(
    name: str,
    samples: Sequence[KitSample],
    limit: int | None,
    cuts: dict[str, Callable[[KitSample], bool]],
) -> EvalSet:
    # One picture a name: a second one would be a right answer that counts as wrong.
    first: dict[str, KitSample] = {}
    for sample in samples:
        first.setdefault(sample.captions[0], sample)
    distinct = _spread(list(first.values()), limit)
    subsets = {
        label: tuple(i for i, sample in enumerate(distinct) if keep(sample))
        for label, keep in cuts.items()
    }
    return EvalSet(
        name,
        tuple(sample.webp for sample in distinct),
        tuple(sample.captions[0] for sample in distinct),
        {label: places for label, places in subsets.items() if places},
    )


def _spread(samples: list[KitSample], limit: int | None) -> list[KitSample]:
    if limit is None or limit >= len(samples):
        return samples
    return [samples[i * len(samples) // limit] for i in range(limit)]


def _class_set(source: str, path: Path, limit: int | None) -> EvalSet:
    found = class_images(path, limit)
    candidates = ((one.name, one.image, (one.label,)) for one in found.images)
    return _decodable(source, candidates, limit, notes=found.notes)


def _labelled_set(source: str, path: Path, limit: int | None) -> EvalSet:
    from tinyclip_edge.data import Losses

    losses = Losses()
    return _decodable(source, class_shard_images(path, losses), limit, losses=losses)


def _shard_set(source: str, limit: int | None) -> EvalSet:
    from tinyclip_edge.data import open_source

    pairs = open_source(source)
    candidates = ((pair.key, pair.image, pair.captions) for pair in pairs)
    return _decodable(source, candidates, limit, losses=pairs.losses, merge=True)


def _decodable(
    source: str,
    candidates: Iterator[_Candidate],
    limit: int | None,
    *,
    losses: Losses | None = None,
    merge: bool = False,
    notes: Sequence[str] = (),
) -> EvalSet:
    """Keep what decodes, up to the limit; raise DataError when more than one per cent do not.

    ``merge``: a picture that comes again, under whatever name, brings captions to the first.
    """
    from tinyclip_edge.data import BadSamples, Losses, UndecodableImageError, decode_image

    images: list[ImageInput] = []
    captions: list[tuple[str, ...]] = []
    places: dict[bytes, int] = {}
    bad = BadSamples(source, losses or Losses())
    seen = 0
    for key, image, texts in candidates:
        if limit is not None and len(images) >= limit:
            break
        seen += 1
        try:
            decoded = decode_image(image.read_bytes() if isinstance(image, Path) else image)
        except (UndecodableImageError, OSError):  # OSError: a file that cannot be read
            bad.add(key)
            continue
        place = places.setdefault(_mark(decoded), len(images)) if merge else len(images)
        if place < len(images):
            own = captions[place]
            captions[place] = (*own, *(text for text in texts if text not in own))
            continue
        images.append(image)
        captions.append(texts)
    bad.check(seen, final=True)
    return EvalSet(
        source,
        tuple(images),
        tuple(own[0] for own in captions),
        notes=(*notes, *bad.report(seen)),
        captions=tuple(captions) if any(len(own) > 1 for own in captions) else (),
    )


def _mark(image: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()
