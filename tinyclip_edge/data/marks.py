"""Short hashes that identify pictures, captions and parts of a source in a feature cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.data.selected_part import SelectedPart
from tinyclip_edge.data.shards import Shard
from tinyclip_edge.data.source import Part

MARK = 16  # bytes
HEAD = 1 << 16  # bytes of a shard that distinguish it from others with the same name and size


def sample_mark(pair: Pair) -> bytes:
    """Return the hash of a key with its picture: the encoded bytes, or the size of the file."""
    image = pair.image
    if isinstance(image, bytes):
        content = image
    elif isinstance(image, Path):
        content = str(image.stat().st_size if image.is_file() else None).encode()
    else:
        content = str(image.size).encode()
    return _mark(_bytes(pair.key), content)


def caption_mark(caption: str) -> bytes:
    """Return the hash of a text."""
    return _mark(_bytes(caption))


def part_name(part: Part) -> str:
    """Return the name of a part, which stays the same when its pairs change."""
    return part.path.name if isinstance(part, Shard) else part.fingerprint


def part_mark(part: Part) -> str:
    """Return 32 hex digits of the content of a part; for a shard, of its size and first bytes."""
    content = [_bytes(part.fingerprint)]
    if isinstance(part, SelectedPart):
        content.append(part_mark(part.whole).encode())
    if isinstance(part, Shard):
        try:
            with part.path.open("rb") as file:
                content += [str(part.size).encode(), file.read(HEAD)]
        except OSError:
            pass  # reported when it is read
    return _mark(*content).hex()


def name_mark(name: str) -> str:
    """Return 16 hex digits of a name, for use in a file name."""
    return _mark(_bytes(name)).hex()[:MARK]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _mark(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=MARK)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
