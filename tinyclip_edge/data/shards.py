"""Read image-caption pairs from webdataset shards (.tar, .tar.gz)."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webdataset.tariterators import base_plus_ext, group_by_keys

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.data.cuts import Cut, CutShards
from tinyclip_edge.data.pairs import Pair, caption_lines, concept_of
from tinyclip_edge.data.tar_members import (
    BROKEN,
    BoundedGzip,
    MeteredStream,
    Source,
    member_content,
    member_headers,
)
from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import MIB
from tinyclip_edge.runtime.image_formats import IMAGE_SUFFIXES

SMALLEST_PAIR = (2048, 100)  # bytes in a shard: image and caption in tar blocks, or zipped
GZIP = b"\x1f\x8b"
EMPTY = "is empty: no KEY.jpg with KEY.txt in it"


@dataclass(frozen=True, slots=True)
class Shard:
    """One local shard."""

    path: Path
    cuts: CutShards = field(default_factory=CutShards, compare=False)
    limits: LimitsConfig = field(default=USUAL, compare=False)

    @property
    def fingerprint(self) -> str:
        """Its file name: a data set may be moved while a run rests."""
        return self.path.name

    @property
    def pairs(self) -> None:
        """Only reading tells."""

    @property
    def at_most(self) -> int:
        """Pairs that a file of its size cannot exceed."""
        return math.ceil(self.size / SMALLEST_PAIR[self.path.suffix == ".gz"])

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def __iter__(self) -> Iterator[Pair]:
        return read_shard(self.path, self.cuts, self.limits)


def read_shard(path: Path, cuts: CutShards, limits: LimitsConfig = USUAL) -> Iterator[Pair]:
    """Yield the pairs of one shard, images still encoded; one that is cut off is noted in ``cuts``.

    Raises DataError, which names the shard, when it is empty, no tar, broken or cut before its
    first whole sample, when a sample has no image or no caption, a key stands twice, or something
    is above the limits.
    """
    with _open(path, limits) as raw:
        yield from read_tar(str(path), raw, cuts, limits)


def read_tar(
    name: str, raw: Source, cuts: CutShards, limits: LimitsConfig = USUAL
) -> Iterator[Pair]:
    """Yield the pairs of an unpacked tar stream; DataError, which names it, as in read_shard."""
    members = _Members(name, raw, limits)
    keys = _Keys()
    before: set[str] = set()
    try:
        for sample in group_by_keys(members):
            key, suffixes = str(sample["__key__"]), set(sample)
            if not members.holds(key, whole=suffixes == before):
                break
            yield _pair(sample, name, keys)
            keys.add(key)
            before = suffixes
    except ValueError as error:  # webdataset: the same member name twice
        told = str(error.args[0]).split(" in tar file")[0]
        raise DataError(f"shard {name}: {told}") from None
    if members.error is not None and (not keys or not members.cut):
        broken = f"is cut off or broken ({members.error})"
        reason = "is empty" if members.tail.empty else broken
        raise DataError(f"shard {name} {reason}; write it again")
    if not keys:
        cut = "is cut off before its first whole sample; write it again"
        raise DataError(f"shard {name} {cut if members.cut else EMPTY}")
    if members.cut:
        cuts.add(name, Cut(len(keys), members.lost))


def _open(path: Path, limits: LimitsConfig) -> io.BufferedIOBase:
    try:
        file = path.open("rb")
        # GzipFile checks length and CRC; tarfile's own stream mode lets a cut file pass.
        return BoundedGzip(str(path), file, limits) if file.peek(2)[:2] == GZIP else file
    except OSError as error:
        raise DataError(f"shard {path} cannot be opened: {error.strerror}") from None


class _Members:
    """The members of a tar up to its end or to where it is cut, and what is known of that place."""

    def __init__(self, name: str, raw: Source, limits: LimitsConfig) -> None:
        self.tail = MeteredStream(name, raw, limits)
        self.cut = False
        self.lost = 0
        self.error: str | None = None
        self._name = name
        self._limits = limits
        self._begun = ""  # member whose header was read last
        self._given = ""  # member that was read whole

    def __iter__(self) -> Iterator[dict[str, Any]]:
        size, key = 0, None
        try:
            for tar, member in member_headers(self._name, self.tail, self._limits):
                self._begun = member.name
                before, key = key, base_plus_ext(member.name)[0]
                size = member.size + (size if key == before else 0)
                if size > self._limits.sample_mb * MIB:
                    raise DataError(
                        f"shard {self._name}: '{key}' has more than {self._limits.sample_mb} MiB; "
                        f"raise data.limits.sample_mb if it is right"
                    )
                content = member_content(tar, member)
                yield {"fname": member.name, "data": content, "__url__": self._name}
                self._given = member.name
            self.cut = not self.tail.ends_with_zero_block()
            self.lost = int(self.cut and self.tail.within_a_block)
        except BROKEN as error:
            self.cut, self.error = self.tail.ended, str(error.args[0]).split(" @ ")[0]
            self.lost = int(self._begun != self._given)

    def holds(self, key: str, *, whole: bool) -> bool:
        """Say whether a sample is all there; ``whole``: it has the members the one before had."""
        if self.error is not None and not self.cut:
            return False
        if not self.cut or base_plus_ext(self._begun)[0] != key:
            return True
        there = whole and self._begun == self._given
        self.lost = max(self.lost, int(not there))
        return there


class _Keys:
    """The keys of a shard, of which any number takes little memory."""

    def __init__(self) -> None:
        self._marks: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._marks)

    def __contains__(self, key: str) -> bool:
        return _mark(key) in self._marks

    def add(self, key: str) -> None:
        """Note one."""
        self._marks.add(_mark(key))


def _mark(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _pair(sample: dict[str, Any], name: str, keys: _Keys) -> Pair:
    key = str(sample["__key__"])
    if key in keys:
        raise DataError(f"shard {name}: key '{key}' stands twice; give each sample its own")
    image = _member(sample, IMAGE_SUFFIXES)
    if image is None:
        wanted = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"shard {name}: sample '{key}' has no image ({wanted})")
    try:
        meta = parse_json(_member(sample, ("json",)) or b"{}")
        written = _member(sample, ("txt",))
        told = meta.pop("caption", "") or ""
        captions = caption_lines(told if written is None else written.decode())
    # ValueError: no UTF-8, no JSON, a number of too many digits.
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"shard {name}: caption of '{key}' cannot be read ({error})") from None
    if not captions:
        raise DataError(f"shard {name}: '{key}' has no caption (KEY.txt, or KEY.json 'caption')")
    concept = concept_of(meta.pop("concept", None), captions)
    return Pair(key=key, image=image, captions=captions, concept=concept, meta=meta)


def _member(sample: dict[str, Any], suffixes: tuple[str, ...]) -> bytes | None:
    """Return the first member with one of the suffixes; webdataset cuts keys at their first dot."""
    for name, data in sample.items():
        if name.rsplit(".", 1)[-1] in suffixes:
            return bytes(data)
    return None
