"""Check which other files an ONNX file refers to, without onnx.

An ONNX file may name another file for a tensor's bytes. onnxruntime before 1.24 (1.23 is the last
with wheels for Python 3.10) reads any file so named, even outside the model's folder.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

EXTERNAL = b"location"
# Fields of onnx.proto that lead to tensors, as kind: {field number: kind of the message}.
FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}  # fmt: skip
KEY, VALUE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_DEPTH = 100  # protobuf's own limit


def refuse_outside_files(path: Path) -> None:
    """Raise ValueError unless all tensors of an ONNX file are in it or in files of its folder."""
    folder = path.parent.resolve()
    for location in sorted(external_locations(path)):
        target = (folder / location).resolve()
        if not (target.is_relative_to(folder) and target.is_file()):
            raise ValueError(f"a tensor's file {location!r} is not in the model's folder")


def external_locations(path: Path) -> set[str]:
    """Return the other files that hold an ONNX file's tensors; raise ValueError if it is broken."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return set(_locations(data, 0, len(data), "model"))


def _locations(data: mmap.mmap, start: int, end: int, kind: str, depth: int = 0) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError("messages are nested too deeply")
    for number, first, last in _messages(data, start, end):
        part = FIELDS[kind].get(number)
        if part == "entry":
            values = list(_messages(data, first, last))
            if any(number == KEY and data[a:b] == EXTERNAL for number, a, b in values):
                yield from (data[a:b].decode() for number, a, b in values if number == VALUE)
        elif part is not None:
            yield from _locations(data, first, last, part, depth + 1)


def _messages(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of bytes; raise ValueError if not protobuf."""
    place = start
    while place < end:
        tag, place = _varint(data, place, end)
        size = 0
        tag &= 0xFFFFFFFF  # as protobuf does
        if tag & 7 == VARINT:
            _, place = _varint(data, place, end)
        elif tag & 7 == BYTES:
            size, place = _varint(data, place, end)
            if size <= end - place:
                yield tag >> 3, place, place + size
        elif tag & 7 in (FIXED64, FIXED32):
            size = 8 if tag & 7 == FIXED64 else 4
        else:
            raise ValueError(f"not protobuf at byte {place}")
        place += size
    if place != end:
        raise ValueError("it is cut off")


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if place + index >= end:
            break
        byte = data[place + index]
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, place + index + 1
    raise ValueError(f"not protobuf at byte {place}")
