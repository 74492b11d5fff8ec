"""Write the chosen pairs as new webdataset shards, for sets that are read many times."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

from PIL import Image

from tinyclip_edge.aside import locked
from tinyclip_edge.data.opening import open_source
from tinyclip_edge.data.pairs import Pair, Picture
from tinyclip_edge.data.source import Part
from tinyclip_edge.errors import DataError
from tinyclip_edge.file_aside import clear_partial_files, file_written_aside
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.limits import MIB
from tinyclip_edge.runtime.image_formats import FORMATS
from tinyclip_edge.runtime.images import image_header
from tinyclip_edge.runtime.progress import reported
from tinyclip_edge.runtime.protocol import Progress

ABOUT = "selection.json"
PAIRS = 10_000  # of a shard
SUFFIX_OF = {each.name: each.suffixes[0] for each in FORMATS if each.suffixes} | {"MPO": "jpg"}


def write_shards(
    selection: Path, folder: Path, *, pairs: int = PAIRS, progress: Progress = False
) -> int:
    """Write the pairs of a selection as shards of ``pairs``; return how many there are.

    Shards appear once they are complete, and those left by a killed call are reused. Raises
    DataError for a folder with shards of another selection, and if the disk refuses.
    """
    source = open_source(str(selection))
    counts = [part.pairs or 0 for part in source.parts]
    total = sum(counts)
    paths = [folder / f"{number:06d}.tar" for number in range(-(-total // pairs))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from error
    with locked(folder), reported(progress, "written pairs") as report:
        _begin(folder, selection, pairs)
        whole = next((at for at, path in enumerate(paths) if not path.is_file()), len(paths))
        rest = _pairs_from(source.parts, counts, whole * pairs)
        for number, path in enumerate(paths[whole:], whole):
            clear_partial_files(path)
            with file_written_aside(path) as file:
                _write(file, islice(rest, pairs), number * pairs)
            report(min(total, (number + 1) * pairs), total)
    return len(paths)


def _begin(folder: Path, selection: Path, pairs: int) -> None:
    """Record the selection in the folder; raise DataError if it holds shards of another one."""
    with selection.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(MIB):
            digest.update(block)
    about = {"selection": digest.hexdigest(), "pairs_per_shard": pairs}
    path = folder / ABOUT
    if path.is_file() and read_json_table(path, DataError) != about:
        raise DataError(f"{folder} has shards of another selection; choose a new folder")
    if not path.is_file():
        if any(folder.glob("*.tar")):
            raise DataError(f"{folder} has other shards; choose a new folder")
        with file_written_aside(path) as file:
            file.write(json.dumps(about).encode() + b"\n")


def _pairs_from(parts: Sequence[Part], counts: list[int], first: int) -> Iterator[Pair]:
    """Yield the pairs from number ``first``; parts before it are not read."""
    for part, count in zip(parts, counts, strict=True):
        if first < count:
            yield from islice(part, first, None)
        first = max(0, first - count)


def _write(file: IO[bytes], pairs: Iterator[Pair], first: int) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, pair in enumerate(pairs, first):
            suffix, image = _encoded(pair.image)
            meta = {**pair.meta, "concept": pair.concept, "original_key": pair.key}
            # Keys may repeat across shards; numbers do not.
            for ending, content in (
                (suffix, image),
                ("txt", "\n".join(pair.captions).encode()),
                ("json", json.dumps(meta).encode()),
            ):
                member = tarfile.TarInfo(f"{number:09d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _encoded(image: Picture) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a picture, those of its file if it has one."""
    if isinstance(image, Image.Image):
        content = io.BytesIO()
        image.save(content, "PNG")
        return "png", content.getvalue()
    try:
        data = image if isinstance(image, bytes) else image.read_bytes()
    except OSError:
        data = b""  # counted as broken by every reader
    try:
        return SUFFIX_OF[image_header(data).format], data
    except (DataError, KeyError):
        return "jpg", data
