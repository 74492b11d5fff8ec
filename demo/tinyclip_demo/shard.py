"""Export part of a gallery as a webdataset shard: pictures, captions, predictions."""

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

SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}  # formats that data.train reads


def write_shard(
    path: Path, gallery: Gallery, disagreements: Sequence[Disagreement], names: Sequence[str]
) -> Path:
    """Write KEY.png (or jpg, webp), KEY.txt and KEY.json per pair; return the path.

    PNG, JPEG and WebP files are copied byte for byte, others converted to PNG. Raises DataError
    when there is no pair.
    """
    if not disagreements:
        raise DataError("no pairs to export: find the disagreements first")
    with tarfile.open(path, "w") as tar:
        for pair in disagreements:
            for name, content in _members(gallery, pair, names):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def _members(
    gallery: Gallery, pair: Disagreement, names: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    key = f"{pair.row:06d}"
    suffix, picture = _picture(gallery, pair.row)
    yield f"{key}.{suffix}", picture
    yield f"{key}.txt", (pair.caption + "\n").encode()
    metadata = {
        "divergence_bits": round(pair.divergence, 4),
        "rank_gap": pair.rank_gap,
        "answers": {
            name: {
                "label": prediction.label,
                "chance": round(prediction.probability, 4),
                "own_rank": prediction.caption_rank,
            }
            for name, prediction in zip(names, pair.predictions, strict=True)
        },
    }
    yield f"{key}.json", json.dumps(metadata, ensure_ascii=False).encode()


def _picture(gallery: Gallery, row: int) -> tuple[str, bytes]:
    """Return suffix and content, unchanged if possible, otherwise as PNG."""
    source = gallery.images[row]
    content = source.read_bytes() if isinstance(source, Path) else source
    if isinstance(content, bytes):
        suffix = SUFFIXES.get(image_header(content).format)
        if suffix:
            return suffix, content
    out = io.BytesIO()
    gallery.picture(row).save(out, "png")
    return "png", out.getvalue()
