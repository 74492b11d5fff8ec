"""Group the members of a shard into samples, as webdataset does, including keys with dots."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from webdataset.tariterators import base_plus_ext

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.image_formats import IMAGE_SUFFIXES

LABELS = ("txt", "json", "cls")  # suffixes of captions and classes


@dataclass(frozen=True, slots=True)
class Sample:
    """The members with one key, by suffix."""

    key: str
    members: dict[str, bytes]

    def member(self, endings: tuple[str, ...]) -> bytes | None:
        """Return the first member with one of the endings."""
        for suffix, data in self.members.items():
            if ending(suffix) in endings:
                return bytes(data)
        return None


class Grouping:
    """The key of each member: up to the first dot, or up to the last one if keys contain dots."""

    def __init__(self) -> None:
        self.key: str | None = None
        self._suffix: str | None = None
        self._base: str | None = None
        self._stems: dict[str, set[str]] = {}  # of webdataset's current group
        self._complete: set[str] = set()
        self._closed = False

    def last(self, _: str) -> tuple[str | None, str | None]:
        """Return key and suffix of the last member, as ``keys`` for webdataset's group_by_keys."""
        return self.key, self._suffix

    def note(self, name: str) -> None:
        """Determine key and suffix of the next member; both are None for a name without them."""
        base, suffix = base_plus_ext(name)
        if base is None or base != self._base:
            self._base, self._stems, self._complete, self._closed = base, {}, set(), False
        self.key, self._suffix = base, suffix
        if base is None:
            return
        stem = name.rpartition(".")[0]
        self._closed = self._closed or (len(self._complete) > 1 and stem not in self._stems)
        if self._closed:
            self.key, self._suffix = stem, ending(name)
            return
        endings = self._stems.setdefault(stem, set())
        endings.add(ending(name))
        if is_pair(endings):
            self._complete.add(stem)


class Keys:
    """The keys of a shard, stored compactly; checks that the members of each key are adjacent."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._suffixes_by_key: dict[bytes, frozenset[str]] = {}
        self._endings: dict[frozenset[str], frozenset[str]] = {}

    def add(self, sample: Sample) -> None:
        """Add a sample. Raises DataError if its key already exists."""
        key, digest = sample.key, _digest(sample.key)
        endings = frozenset(ending(member) for member in sample.members)
        before = self._suffixes_by_key.get(digest)
        if before is not None and before.isdisjoint(endings):
            first, other = min(before), min(endings)
            raise DataError(
                f"shard {self._name}: '{key}.{first}' and '{key}.{other}' are not adjacent; write "
                "the members of a sample one after the other (tar --sort=name)"
            )
        if before is not None:
            raise DataError(
                f"shard {self._name}: key '{key}' appears twice; give each sample its own"
            )
        # Most samples have the same endings: one set for all of them.
        self._suffixes_by_key[digest] = self._endings.setdefault(endings, endings)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def split_group(name: str, group: dict[str, Any]) -> list[Sample]:
    """Return the samples of a webdataset group, which is several samples if keys contain dots.

    Raises DataError for a sample with two images.
    """
    base = str(group["__key__"])
    suffixes = {suffix: data for suffix, data in group.items() if not suffix.startswith("__")}
    stems: dict[str, dict[str, bytes]] = {}
    for suffix, data in suffixes.items():
        stem = f"{base}.{suffix}".rpartition(".")[0]
        stems.setdefault(stem, {})[ending(suffix)] = data
    images = [suffix for suffix in suffixes if ending(suffix) in IMAGE_SUFFIXES]
    if len(images) < 2:
        return [Sample(next(iter(stems)) if len(stems) == 1 else base, suffixes)]
    complete = [stem for stem, members in stems.items() if is_pair(members)]
    if len(complete) < 2 or len(images) > len(stems):
        raise DataError(
            f"shard {name}: sample '{base}' has two images, '{base}.{images[0]}' and "
            f"'{base}.{images[1]}'; give each its own key and caption, or remove one"
        )
    return [Sample(stem, members) for stem, members in stems.items()]


def is_pair(members: Container[str]) -> bool:
    """Whether the endings include an image and a label."""
    return any(suffix in members for suffix in IMAGE_SUFFIXES) and any(
        suffix in members for suffix in LABELS
    )


def ending(suffix: str) -> str:
    """Return the part after the last dot, in lower case."""
    return suffix.rpartition(".")[2].lower()
