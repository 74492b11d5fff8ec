"""Read image-caption pairs from webdataset shards (.tar, .tar.gz)."""

from __future__ import annotations

import gzip
import io
import json
import math
import tarfile
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from tinyclip_edge.data.cuts import Cut, CutShards
from tinyclip_edge.data.pairs import IMAGE_SUFFIXES, Pair, caption_lines, concept_of
from tinyclip_edge.errors import DataError

BLOCK = 512  # bytes of a tar block; an archive ends with zero blocks
BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError)
SMALLEST_PAIR = (2048, 100)  # bytes in a shard: image and caption in tar blocks, or zipped
GZIP = b"\x1f\x8b"
EMPTY = "is empty: no KEY.jpg with KEY.txt in it"


@dataclass(frozen=True, slots=True)
class Shard:
    """One local shard."""

    path: Path
    cuts: CutShards = field(default_factory=CutShards, compare=False)

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
        return read_shard(self.path, self.cuts)


def read_shard(path: Path, cuts: CutShards) -> Iterator[Pair]:
    """Yield the pairs of one shard, images still encoded; one that is cut off is noted in ``cuts``.

    Raises DataError, which names the shard, when it is empty, no tar, broken or cut before its
    first whole sample, when a sample has no image or no caption, or a key stands twice.
    """
    with _open(path) as raw:
        yield from read_tar(str(path), raw, cuts)


def read_tar(name: str, raw: io.BufferedIOBase, cuts: CutShards) -> Iterator[Pair]:
    """Yield the pairs of an unpacked tar stream; DataError, which names it, as in read_shard."""
    members = _Members(name, raw)
    keys: set[str] = set()
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
    except DataError as error:
        raise members.tail.refusal() or error from None
    if members.error is not None and (not keys or not members.cut):
        broken = f"is cut off or broken ({members.error})"
        reason = "is empty" if members.tail.empty else broken
        raise DataError(f"shard {name} {reason}; write it again")
    if not keys:
        cut = "is cut off before its first whole sample; write it again"
        raise DataError(f"shard {name} {cut if members.cut else EMPTY}")
    if members.cut:
        cuts.add(name, Cut(len(keys), members.lost))


def _open(path: Path) -> io.BufferedIOBase:
    try:
        with path.open("rb") as head:
            zipped = head.read(2) == GZIP
        # gzip.open checks length and CRC; tarfile's own stream mode lets a cut file pass.
        return gzip.open(path) if zipped else path.open("rb")
    except OSError as error:
        raise DataError(f"shard {path} cannot be opened: {error.strerror}") from None


class _Members:
    """The members of a tar up to its end or to where it is cut, and what is known of that place."""

    def __init__(self, name: str, raw: io.BufferedIOBase) -> None:
        self.tail = _Tail(raw)
        self.cut = False
        self.lost = 0
        self.error: str | None = None
        self._name = name
        self._begun = ""  # member whose header was read last
        self._given = ""  # member that was read whole

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # The last sample comes after the end was seen: webdataset's own mark of it is turned off.
        sources = [{"url": self._name, "stream": self.tail}]
        try:
            for member in tar_file_expander(sources, select_files=self._note, eof_value=None):
                yield member
                self._given = member["fname"]
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

    def _note(self, name: str) -> bool:
        self._begun = name
        return True


class _Tail:
    """Reader that remembers the last block, as tarfile takes a cut header for the end."""

    def __init__(self, raw: io.BufferedIOBase) -> None:
        self._raw = raw
        self._last = b""
        self._refused: str | None = None
        self._size = 0
        self.empty = True
        self.ended = False  # there is no byte more

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._raw.read1(size)  # what comes before a cut, not all or nothing
        except EOFError:
            self.ended = True
            raise
        except DataError as error:
            self._refused = str(error)
            raise
        self.ended = not data
        self.empty = self.empty and not data
        self._size += len(data)
        self._last = (self._last + data[-BLOCK:])[-BLOCK:]
        return data

    @property
    def within_a_block(self) -> bool:
        """Whether what was read ends in the middle of a tar block."""
        return self._size % BLOCK != 0

    def ends_with_zero_block(self) -> bool:
        while self.read(1 << 20):
            pass
        return self._last == bytes(BLOCK)

    def refusal(self) -> DataError | None:
        """Return the reader's own error, which webdataset adds to on its way up."""
        return None if self._refused is None else DataError(self._refused)


def _pair(sample: dict[str, Any], name: str, keys: Container[str]) -> Pair:
    key = str(sample["__key__"])
    if key in keys:
        raise DataError(f"shard {name}: key '{key}' stands twice; give each sample its own")
    image = _member(sample, IMAGE_SUFFIXES)
    if image is None:
        wanted = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"shard {name}: sample '{key}' has no image ({wanted})")
    try:
        meta = json.loads(_member(sample, ("json",)) or b"{}")
        written = _member(sample, ("txt",))
        told = meta.pop("caption", "") or ""
        captions = caption_lines(told if written is None else written.decode())
    # ValueError: no UTF-8, no JSON, a number of too many digits.
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
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
