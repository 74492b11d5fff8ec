"""Build the starter kit's shards from npm packages of pictograms.

``python -m starter.build_shards --packages node_modules --out DIR``

Needs resvg-py, Pillow and the npm packages named in ATTRIBUTION.md; nothing else in this project
needs them. The same packages always give the same shards, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import random
import sys
import tarfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from starter.render import Drawing, draw, near
from starter.sources import (
    ICON_FAMILIES,
    WIDER_FAMILIES,
    Picture,
    brand_names,
    emoji_pictures,
    icon_pictures,
)
from starter.splits import (
    RANK,
    SEED,
    TEST_STYLES,
    assign_groups,
    choose_icons,
    mark_canonical,
    place,
    spare_styles,
    widen,
)

SHARD_SAMPLES = 9_000
SPLIT_ORDER = ("train", "val", "test_style", "test_concepts")


def captions(picture: Picture, unseen: frozenset[str]) -> list[str]:
    """Caption lines: the name first, then richer ones; in training without unseen concepts."""
    tags = [
        tag
        for tag in visible_keywords(picture, unseen)
        if tag not in picture.concept.split() and tag != picture.concept
    ]
    lines = [picture.concept]
    if picture.kind == "icon":
        lines += tags[:2] if len(tags) > 1 else []
        return lines + [f"{picture.concept}, {t}" for t in tags[-1:]]
    if tags:
        lines.append(", ".join([picture.concept, *tags[:2]]))
    if len(tags) > 2:
        lines.append(", ".join(tags[:4]))
    return lines


def visible_keywords(picture: Picture, unseen: frozenset[str]) -> list[str]:
    """Return the keywords; in training, without the names of unseen concepts."""
    if picture.split != "train":
        return picture.keywords
    return [keyword for keyword in picture.keywords if keyword.casefold() not in unseen]


def hidden_keywords(pictures: list[Picture], unseen: frozenset[str]) -> set[str]:
    """Return names of unseen concepts that training samples would have as keywords."""
    keywords = {k.casefold() for p in pictures if p.split == "train" for k in p.keywords}
    return keywords & unseen


def collect(packages: Path) -> list[Picture]:
    """Return all pictures chosen for the kit, with their splits, before any are drawn."""
    brands = brand_names(packages)
    icons = [p for family in ICON_FAMILIES for p in icon_pictures(packages, family, brands)]
    pictures = list(emoji_pictures(packages)) + choose_icons(icons)
    unique = {p.key: p for p in reversed(pictures)}
    ordered = sorted(unique.values(), key=lambda p: (RANK[p.family], p.key))
    groups = assign_groups(ordered)
    core = place(ordered, groups)
    candidates = [p for family in WIDER_FAMILIES for p in icon_pictures(packages, family, brands)]
    candidates += [p for p in icons if p.family not in TEST_STYLES]
    return core + widen(core, groups, candidates)


def _draw_or_none(source: str | bytes) -> Drawing | None:
    try:
        return draw(source)
    except (ValueError, OSError):  # an SVG that the renderer cannot parse
        return None


def draw_all(pictures: list[Picture], workers: int) -> dict[str, Drawing]:
    """Draw every picture; blank, repeated and nearly repeated drawings are omitted.

    Held-out drawings are compared after those for training, so that tests contain no training
    drawing. Pictures that widen training come last, so that they remove nothing from the tests.
    """
    with ProcessPoolExecutor(workers) as pool:
        drawings = list(pool.map(_draw_or_none, [p.svg for p in pictures], chunksize=64))
    rank = {split: i for i, split in enumerate(SPLIT_ORDER)}
    unique: dict[str, Drawing] = {}
    digests: set[str] = set()
    same_concept: dict[str, list[Drawing]] = defaultdict(list)
    for picture, drawing in sorted(
        zip(pictures, drawings, strict=True), key=lambda x: (x[0].wider, rank[x[0].split])
    ):
        if drawing is None or drawing.digest in digests:
            continue
        if any(near(drawing.thumb, earlier.thumb) for earlier in same_concept[picture.concept]):
            continue
        digests.add(drawing.digest)
        same_concept[picture.concept].append(drawing)
        unique[picture.key] = drawing
    return unique


def _members(picture: Picture, drawing: Drawing, unseen: frozenset[str]) -> list[tuple[str, bytes]]:
    about: dict[str, Any] = {
        "concept": picture.concept,
        "group_key": picture.group_key,
        "kind": picture.kind,
        "family": picture.family,
        "group": picture.group,
        "flag": picture.flag,
        "canonical": picture.canonical,
        "keywords": visible_keywords(picture, unseen),
    }
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":"))
    lines = "\n".join(captions(picture, unseen)) + "\n"
    return [("webp", drawing.webp), ("txt", lines.encode()), ("json", text.encode())]


def write_shard(path: Path, samples: list[tuple[str, list[tuple[str, bytes]]]]) -> None:
    """Write samples as a gzipped tar without dates or owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for suffix, payload in members:
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime, info.mode = len(payload), 0, 0o644
                tar.addfile(info, io.BytesIO(payload))
    path.write_bytes(gzip.compress(buffer.getvalue(), 9, mtime=0))


def build(packages: Path, out: Path, workers: int = 2) -> dict[str, Any]:
    """Build all shards under ``out/shards`` and return the index that is written beside them."""
    pictures = collect(packages)
    drawings = draw_all(pictures, workers)
    # Only now: drawings of spared styles must stay out of the tests, too.
    pictures = spare_styles([p for p in pictures if p.key in drawings])
    train_concepts = {p.concept for p in pictures if p.split == "train" and not p.wider}
    styles = ("test_style",)
    pictures = [p for p in pictures if p.split not in styles or p.concept in train_concepts]
    pictures = mark_canonical(pictures)
    train_concepts |= {p.concept for p in pictures if p.wider}
    unseen = frozenset(p.concept for p in pictures if p.split != "train") - train_concepts
    folder = out / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.tar.gz"):
        old.unlink()
    index: dict[str, Any] = {
        "seed": SEED,
        "image_size": 64,
        "splits": {},
        "shards": {},
        "held_out_keywords": sorted(hidden_keywords(pictures, unseen)),
    }
    for split in SPLIT_ORDER:
        members = [p for p in pictures if p.split == split]
        random.Random(SEED).shuffle(members)
        index["splits"][split] = {
            "samples": len(members),
            "concepts": len({p.concept for p in members}),
            "groups": len({p.group_key for p in members}),
            "families": dict(sorted(Counter(p.family for p in members).items())),
        }
        for number, start in enumerate(range(0, len(members), SHARD_SAMPLES)):
            path = folder / f"{split}-{number:05d}.tar.gz"
            part = members[start : start + SHARD_SAMPLES]
            write_shard(path, [(p.key, _members(p, drawings[p.key], unseen)) for p in part])
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            index["shards"][path.name] = {
                "samples": len(part), "bytes": path.stat().st_size, "sha256": digest
            }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    return index


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="the node_modules folder")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets shards/")
    parser.add_argument("--workers", type=int, default=2, help="drawing processes")
    arguments = parser.parse_args()
    index = build(arguments.packages, arguments.out, arguments.workers)
    sys.stdout.write(
        json.dumps({"splits": index["splits"], "shards": index["shards"]}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
