"""Read image-caption pairs from webdataset shards (.tar, .tar.gz)."""

from __future__ import annotations

import glob
import gzip
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import braceexpand
from webdataset.tariterators import group_by_keys, tar_file_expander

from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.errors import DataError, did_you_mean

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
STARTER = "starter:"
BLOCK = 512  # bytes of a tar block; an archive ends with zero blocks
BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError)


@dataclass(frozen=True, slots=True)
class ShardSource:
    """Shards under one name; iterating reads every pair in the order of the shards."""

    name: str
    shards: tuple[Path, ...]

    def __iter__(self) -> Iterator[Pair]:
        for shard in self.shards:
            yield from read_shard(shard)


def open_source(source: str | Sequence[str]) -> ShardSource:
    """Find the shards of ``starter:SPLIT`` or of one or more patterns.

    Patterns may hold braces (``{000..009}``) and wildcards. Raises DataError when one matches none.
    """
    patterns = [source] if isinstance(source, str) else list(source)
    shards: dict[Path, None] = {}
    for pattern in patterns:
        found = _starter(pattern) if pattern.startswith(STARTER) else _matches(pattern)
        shards.update(dict.fromkeys(found))
    return ShardSource(", ".join(patterns), tuple(shards))


def read_shards(pattern: str | Sequence[str]) -> Iterator[Pair]:
    """Yield the pairs of all shards that match; see open_source and read_shard for the errors."""
    return iter(open_source(pattern))


def read_shard(path: Path) -> Iterator[Pair]:
    """Yield the pairs of one shard, images still encoded.

    Raises DataError, which names the shard, when it is empty, cut off, or has a sample without an
    image or a caption.
    """
    count = 0
    with _open(path) as raw:
        stream = _Tail(raw)
        try:
            for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])):
                count += 1
                yield _pair(sample, path)
            ended = stream.ends_with_zero_block()
        except BROKEN as error:
            empty = path.stat().st_size == 0
            reason = "is empty" if empty else f"is cut off or broken ({error.args[0]})"
            raise DataError(f"shard {path} {reason}; write it again") from None
        except ValueError as error:  # webdataset: the same member name twice
            told = str(error.args[0]).split(" in tar file")[0]
            raise DataError(f"shard {path}: {told}") from None
    if not ended:
        raise DataError(f"shard {path} is cut off after {count} samples; write it again")
    if count == 0:
        raise DataError(f"shard {path} is empty: no KEY.jpg with KEY.txt in it")


def _starter(name: str) -> list[Path]:
    folder = Path(__file__).resolve().parents[1] / "starter" / "shards"
    split = name.removeprefix(STARTER)
    found = sorted(folder.glob(f"{glob.escape(split)}-[0-9]*.tar.gz"))
    if not found:
        known = {path.name.rsplit("-", 1)[0] for path in folder.glob("*.tar.gz")}
        raise DataError(f"starter kit has no split '{split}'{did_you_mean(split, known)}")
    return found


def _matches(pattern: str) -> list[Path]:
    if re.match(r"^[a-z][a-z0-9+.-]+:", pattern):  # two letters or more: C: is a Windows drive
        raise DataError(f"shards '{pattern}': only local files can be read; fetch them first")
    try:
        expanded = list(braceexpand.braceexpand(pattern))
    except ValueError:
        raise DataError(f"shards '{pattern}': the braces do not close") from None
    found: list[Path] = []
    for name in expanded:
        path = Path(name)
        paths = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(name))  # noqa: PTH207
        if not any(p.is_file() for p in paths):
            part = "" if name == pattern else f" (no '{name}')"
            raise DataError(f"no shard matches '{pattern}'{part}; give .tar or .tar.gz files")
        found.extend(p for p in paths if p.is_file())
    return found


def _open(path: Path) -> IO[bytes]:
    try:
        with path.open("rb") as head:
            zipped = head.read(2) == b"\x1f\x8b"
        # gzip.open checks length and CRC; tarfile's own stream mode lets a cut file pass.
        return gzip.open(path) if zipped else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"shard {path} cannot be opened: {error.strerror}") from None


class _Tail:
    """Reader that remembers the last block, as tarfile takes a cut header for the end."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._last = (self._last + data[-BLOCK:])[-BLOCK:]
        return data

    def ends_with_zero_block(self) -> bool:
        while self.read(1 << 20):
            pass
        return self._last == bytes(BLOCK)


def _pair(sample: dict[str, Any], path: Path) -> Pair:
    key = str(sample["__key__"])
    image = _member(sample, IMAGE_SUFFIXES)
    if image is None:
        wanted = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"shard {path}: sample '{key}' has no image ({wanted})")
    try:
        meta = json.loads(_member(sample, ("json",)) or b"{}")
        written = _member(sample, ("txt",))
        text = meta.pop("caption", "") if written is None else written.decode()
        lines = text.splitlines() if isinstance(text, str) else [str(line) for line in text]
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError) as error:
        raise DataError(f"shard {path}: caption of '{key}' cannot be read ({error})") from None
    captions = tuple(line.strip() for line in lines if line.strip())
    if not captions:
        raise DataError(f"shard {path}: '{key}' has no caption (KEY.txt, or KEY.json 'caption')")
    concept = str(meta.pop("concept", None) or captions[0].casefold())
    return Pair(key=key, image=image, captions=captions, concept=concept, meta=meta)


def _member(sample: dict[str, Any], suffixes: tuple[str, ...]) -> bytes | None:
    """Return the first member with one of the suffixes; webdataset cuts keys at their first dot."""
    for name, data in sample.items():
        if name.rsplit(".", 1)[-1] in suffixes:
            return bytes(data)
    return None
