"""Read image-caption pairs from webdataset shards (.tar, .tar.gz)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webdataset.tariterators import base_plus_ext, group_by_keys

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.data.cuts import Cut, FaultySampleError, Losses
from tinyclip_edge.data.pairs import (
    Pair,
    caption_lines,
    captions_of,
    concept_of,
)
from tinyclip_edge.data.tar_members import (
    BROKEN,
    MeteredStream,
    Source,
    member_content,
    member_headers,
    open_tar,
)
from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import MIB
from tinyclip_edge.runtime.image_formats import IMAGE_SUFFIXES

SMALLEST_PAIR = (2048, 100)  # bytes in a shard: image and caption in tar blocks, or zipped
LABELS = ("txt", "json", "cls")  # suffixes of captions and classes
EMPTY = "is empty: no KEY.jpg with KEY.txt in it"


@dataclass(frozen=True, slots=True)
class Sample:
    """The members of one key, by suffix."""

    key: str
    members: dict[str, bytes]

    def member(self, endings: tuple[str, ...]) -> bytes | None:
        """Return the first member with one of the endings."""
        for suffix, data in self.members.items():
            if _ending(suffix) in endings:
                return bytes(data)
        return None


@dataclass(frozen=True, slots=True)
class Shard:
    """One local shard."""

    path: Path
    losses: Losses = field(default_factory=Losses, compare=False)
    limits: LimitsConfig = field(default=USUAL, compare=False)

    @property
    def fingerprint(self) -> str:
        """Its file name, as a data set may be moved before a run is resumed."""
        return self.path.name

    @property
    def pairs(self) -> None:
        """Unknown before it is read."""

    @property
    def at_most(self) -> int:
        """Upper bound of its pairs from the size of the file."""
        return math.ceil(self.size / SMALLEST_PAIR[self.path.suffix == ".gz"])

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def __iter__(self) -> Iterator[Pair]:
        return read_shard(self.path, self.losses, self.limits)


def read_shard(path: Path, losses: Losses, limits: LimitsConfig = USUAL) -> Iterator[Pair]:
    """Yield the pairs of one shard, images still encoded; losses are added to ``losses``.

    Raises DataError as read_samples does.
    """
    with open_tar(path, limits) as raw:
        yield from read_tar(str(path), raw, losses, limits)


def read_tar(
    name: str, raw: Source, losses: Losses, limits: LimitsConfig = USUAL
) -> Iterator[Pair]:
    """Yield the pairs of an unpacked tar stream; faulty samples are added to ``losses``.

    Raises DataError as read_samples does.
    """
    count = 0
    for sample in read_samples(name, raw, losses, limits):
        try:
            pair = _pair(sample)
        except FaultySampleError as error:
            losses.add_fault(f"shard {name}: {error}")
            continue
        count += 1
        losses.count(name, count)
        yield pair


def open_samples(path: Path, losses: Losses, limits: LimitsConfig = USUAL) -> Iterator[Sample]:
    """Yield the samples of one shard, whatever their members. Raises as read_samples."""
    with open_tar(path, limits) as raw:
        yield from read_samples(str(path), raw, losses, limits)


def read_samples(
    name: str, raw: Source, losses: Losses, limits: LimitsConfig = USUAL
) -> Iterator[Sample]:
    """Yield the samples of an unpacked tar stream; a cut is added to ``losses``.

    Members are grouped as webdataset does, up to the first dot of their name. Where that joins
    several images with captions, the keys have dots, and end at the last one.

    Raises DataError, which names the shard, when it is empty, no tar, broken or cut before its
    first whole sample, when the members of a key do not stand together or it stands twice, when
    one sample has two images, and for what is above the limits.
    """
    members = _Members(name, raw, limits)
    keys = _Keys(name)
    before: set[str] = set()
    complete = 0
    try:
        for group in group_by_keys(members, keys=members.grouping.last, lcase=False):
            for sample in _split(name, group):
                endings = {_ending(member) for member in sample.members}
                if not members.holds(sample.key, is_complete=endings == before):
                    break
                keys.add(sample)
                before = endings
                complete += 1
                yield sample
    except ValueError as error:  # webdataset: the same member name twice
        fault = str(error.args[0]).split(" in tar file")[0]
        raise DataError(f"shard {name}: {fault}") from None
    if members.error is not None and (not complete or not members.cut):
        raise DataError(f"shard {name} {members.tail.fault(members.error)}")
    if not complete:
        cut = "is cut off before its first whole sample; write it again"
        raise DataError(f"shard {name} {cut if members.cut else EMPTY}")
    if members.cut:
        losses.add_cut(name, Cut(complete, members.cut_samples))


class _Members:
    """The members of a tar up to its end, or to where it is cut off."""

    def __init__(self, name: str, raw: Source, limits: LimitsConfig) -> None:
        self.tail = MeteredStream(name, raw, limits)
        self.grouping = _Grouping()
        self.cut = False
        self.cut_samples = 0
        self.error: str | None = None
        self._name = name
        self._limits = limits
        self._begun = ""  # member whose header was read last
        self._complete_member = ""  # last member that was read completely

    def __iter__(self) -> Iterator[dict[str, Any]]:
        size, key = 0, None
        try:
            for tar, member in member_headers(self._name, self.tail, self._limits):
                self._begun = member.name
                self.grouping.note(member.name)
                before, key = key, self.grouping.key
                size = member.size + (size if key == before else 0)
                if size > self._limits.sample_mb * MIB:
                    raise DataError(
                        f"shard {self._name}: '{key}' has more than {self._limits.sample_mb} MiB; "
                        f"raise data.limits.sample_mb if it is right"
                    )
                content = member_content(tar, member)
                yield {"fname": member.name, "data": content, "__url__": self._name}
                self._complete_member = member.name
            self.cut = not self.tail.ends_with_zero_block()
            self.cut_samples = int(self.cut and self.tail.within_a_block)
        except BROKEN as error:
            self.cut, self.error = self.tail.ended, str(error.args[0]).split(" @ ")[0]
            self.cut_samples = int(self._begun != self._complete_member)

    def holds(self, key: str, *, is_complete: bool) -> bool:
        """Whether a sample is complete; ``is_complete``: it has the members of the one before."""
        if self.error is not None and not self.cut:
            return False
        begun = self._begun
        if not self.cut or key not in (base_plus_ext(begun)[0], begun.rpartition(".")[0]):
            return True
        there = is_complete and self._begun == self._complete_member
        self.cut_samples = max(self.cut_samples, int(not there))
        return there


class _Grouping:
    """The key of each member: up to the first dot, or the last one where keys have dots."""

    def __init__(self) -> None:
        self.key: str | None = None
        self._suffix: str | None = None
        self._base: str | None = None
        self._stems: dict[str, set[str]] = {}  # of the current group of webdataset
        self._complete: set[str] = set()
        self._closed = False

    def last(self, _: str) -> tuple[str | None, str | None]:
        """Return key and suffix of the last member."""
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
            self.key, self._suffix = stem, _ending(name)
            return
        endings = self._stems.setdefault(stem, set())
        endings.add(_ending(name))
        if _is_pair(endings):
            self._complete.add(stem)


class _Keys:
    """The keys of a shard, in little memory; checks that each is in one place."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._suffixes_by_key: dict[bytes, frozenset[str]] = {}
        self._endings: dict[frozenset[str], frozenset[str]] = {}

    def add(self, sample: Sample) -> None:
        """Add a sample. Raises DataError when its key exists already."""
        key, mark = sample.key, _mark(sample.key)
        endings = frozenset(_ending(member) for member in sample.members)
        before = self._suffixes_by_key.get(mark)
        if before is not None and before.isdisjoint(endings):
            first, other = min(before), min(endings)
            raise DataError(
                f"shard {self._name}: '{key}.{first}' and '{key}.{other}' do not stand together; "
                f"write the members of a sample one after the other (tar --sort=name)"
            )
        if before is not None:
            raise DataError(
                f"shard {self._name}: key '{key}' stands twice; give each sample its own"
            )
        # Most samples have the same endings: one set for all of them.
        self._suffixes_by_key[mark] = self._endings.setdefault(endings, endings)


def _mark(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _split(name: str, group: dict[str, Any]) -> list[Sample]:
    """Return the sample of a webdataset group, or the samples that it joins as keys have dots.

    Raises DataError for a sample with two images.
    """
    base = str(group["__key__"])
    suffixes = {suffix: data for suffix, data in group.items() if not suffix.startswith("__")}
    stems: dict[str, dict[str, bytes]] = {}
    for suffix, data in suffixes.items():
        stem = f"{base}.{suffix}".rpartition(".")[0]
        stems.setdefault(stem, {})[_ending(suffix)] = data
    images = [suffix for suffix in suffixes if _ending(suffix) in IMAGE_SUFFIXES]
    if len(images) < 2:
        return [Sample(next(iter(stems)) if len(stems) == 1 else base, suffixes)]
    complete = [stem for stem, members in stems.items() if _is_pair(members)]
    if len(complete) < 2 or len(images) > len(stems):
        raise DataError(
            f"shard {name}: sample '{base}' has two images, '{base}.{images[0]}' and "
            f"'{base}.{images[1]}'; give each its own key and caption, or leave one out"
        )
    return [Sample(stem, members) for stem, members in stems.items()]


def _is_pair(members: Container[str]) -> bool:
    return any(ending in members for ending in IMAGE_SUFFIXES) and any(
        ending in members for ending in LABELS
    )


def _ending(suffix: str) -> str:
    return suffix.rpartition(".")[2].lower()


def _pair(sample: Sample) -> Pair:
    key = sample.key
    image = sample.member(IMAGE_SUFFIXES)
    if image is None:
        raise FaultySampleError(f"sample '{key}' has no image ({', '.join(IMAGE_SUFFIXES)})")
    try:
        meta = parse_json(sample.member(("json",)) or b"{}")
        written = sample.member(("txt",))
        value = meta.pop("caption", None)
        captions = (
            captions_of(value) if written is None else caption_lines(written.decode("utf-8-sig"))
        )
    # ValueError: invalid UTF-8 or JSON, or a number with too many digits.
    except (ValueError, AttributeError, TypeError) as error:
        raise FaultySampleError(f"caption of '{key}' cannot be read ({error})") from None
    if not captions:
        raise FaultySampleError(f"'{key}' has no caption (KEY.txt, or KEY.json 'caption')")
    concept = concept_of(meta.pop("concept", None), captions)
    return Pair(key=key, image=image, captions=captions, concept=concept, meta=meta)
