"""Read image-caption pairs from webdataset shards (.tar, .tar.gz)."""

from __future__ import annotations

import gzip
import json
import math
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from webdataset.tariterators import group_by_keys, tar_file_expander

from tinyclip_edge.data.pairs import IMAGE_SUFFIXES, Pair, caption_lines, concept_of
from tinyclip_edge.errors import DataError

BLOCK = 512  # bytes of a tar block; an archive ends with zero blocks
BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError)
SMALLEST_PAIR = (2048, 100)  # bytes in a shard: image and caption in tar blocks, or zipped
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Shard:
    """One local shard."""

    path: Path

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
        return read_shard(self.path)


def read_shard(path: Path) -> Iterator[Pair]:
    """Yield the pairs of one shard, images still encoded.

    Raises DataError, which names the shard, when it is empty, cut off, or has a sample without an
    image or a caption.
    """
    with _open(path) as raw:
        yield from read_tar(str(path), raw)


def read_tar(name: str, raw: IO[bytes]) -> Iterator[Pair]:
    """Yield the pairs of an unpacked tar stream; DataError, which names it, as in read_shard."""
    count = 0
    stream = _Tail(raw)
    try:
        for sample in group_by_keys(tar_file_expander([{"url": name, "stream": stream}])):
            count += 1
            yield _pair(sample, name)
        ended = stream.ends_with_zero_block()
    except BROKEN as error:
        reason = "is empty" if stream.empty else f"is cut off or broken ({error.args[0]})"
        raise DataError(f"shard {name} {reason}; write it again") from None
    except ValueError as error:  # webdataset: the same member name twice
        told = str(error.args[0]).split(" in tar file")[0]
        raise DataError(f"shard {name}: {told}") from None
    except DataError as error:
        raise stream.refusal() or error from None
    if not ended:
        raise DataError(f"shard {name} is cut off after {count} samples; write it again")
    if count == 0:
        raise DataError(f"shard {name} is empty: no KEY.jpg with KEY.txt in it")


def _open(path: Path) -> IO[bytes]:
    try:
        with path.open("rb") as head:
            zipped = head.read(2) == GZIP
        # gzip.open checks length and CRC; tarfile's own stream mode lets a cut file pass.
        return gzip.open(path) if zipped else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"shard {path} cannot be opened: {error.strerror}") from None


class _Tail:
    """Reader that remembers the last block, as tarfile takes a cut header for the end."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._last = b""
        self._refused: str | None = None
        self.empty = True

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._raw.read(size)
        except DataError as error:
            self._refused = str(error)
            raise
        self.empty = self.empty and not data
        self._last = (self._last + data[-BLOCK:])[-BLOCK:]
        return data

    def ends_with_zero_block(self) -> bool:
        while self.read(1 << 20):
            pass
        return self._last == bytes(BLOCK)

    def refusal(self) -> DataError | None:
        """Return the reader's own error, which webdataset adds to on its way up."""
        return None if self._refused is None else DataError(self._refused)


def _pair(sample: dict[str, Any], name: str) -> Pair:
    key = str(sample["__key__"])
    image = _member(sample, IMAGE_SUFFIXES)
    if image is None:
        wanted = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"shard {name}: sample '{key}' has no image ({wanted})")
    try:
        meta = json.loads(_member(sample, ("json",)) or b"{}")
        written = _member(sample, ("txt",))
        captions = caption_lines(meta.pop("caption", "") if written is None else written.decode())
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError) as error:
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
