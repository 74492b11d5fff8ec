"""A slice of a gallery as a webdataset shard: pictures, captions, what the models said."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tinyclip_demo.disagree import Disagreement
from tinyclip_demo.gallery import Gallery
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.images import image_header

SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}  # what data.train reads as it is


def write_shard(
    path: Path, gallery: Gallery, found: Sequence[Disagreement], names: Sequence[str]
) -> Path:
    """Write KEY.png (or jpg, webp), KEY.txt and KEY.json per pair; return the path.

    Files that already are PNG, JPEG or WebP stay as they are, byte for byte. Raise DataError when
    nothing is to be written.
    """
    if not found:
        raise DataError("no pair to export: mine the disagreements first")
    with tarfile.open(path, "w") as tar:
        for pair in found:
            for name, content in _members(gallery, pair, names):
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return path


def _members(
    gallery: Gallery, pair: Disagreement, names: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    key = f"{pair.row:06d}"
    suffix, picture = _picture(gallery, pair.row)
    yield f"{key}.{suffix}", picture
    yield f"{key}.txt", (pair.caption + "\n").encode()
    about = {
        "divergence_bits": round(pair.divergence, 4),
        "rank_gap": pair.rank_gap,
        "answers": {
            name: {
                "label": answer.label,
                "chance": round(answer.chance, 4),
                "own_rank": answer.own_rank,
            }
            for name, answer in zip(names, pair.answers, strict=True)
        },
    }
    yield f"{key}.json", json.dumps(about, ensure_ascii=False).encode()


def _picture(gallery: Gallery, row: int) -> tuple[str, bytes]:
    """Return suffix and content, as it lies or else as PNG."""
    source = gallery.images[row]
    content = source.read_bytes() if isinstance(source, Path) else source
    if isinstance(content, bytes):
        suffix = SUFFIXES.get(image_header(content).format)
        if suffix:
            return suffix, content
    out = io.BytesIO()
    gallery.picture(row).save(out, "png")
    return "png", out.getvalue()
