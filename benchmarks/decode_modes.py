"""Decode mode "fast" against "exact": processor time of a photo's steps, and what changes.

Photos are enlarged to 12 megapixels; mosaics put many photos of their own size side by side, and
checks and blocks are drawn, as hard cases for a reduced decode. Bundles of different picture sizes
show the differences in pixels, in levels of 255, and in embeddings. With simplejpeg installed, its
decoder is timed too.

    python benchmarks/decode_modes.py BUNDLE_224 BUNDLE_64 --data ../shared/data \\
        --out benchmarks/results/decode-modes.json
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, _imaging

from collection_peers import CAMERA, pictures
from file_to_embedding import bound, with_grain
from machine import machine_facts
from tinyclip_edge import EdgeCLIP
from written import print_result

Pixels = NDArray[np.uint8]  # [H, W, 3]
WIDTH, HEIGHT = CAMERA
CHECK, BLOCK = 5, 37  # pixels of a side
BLOCKS = 16  # of memory that Pillow may keep, each of 16 MB
KEPT = f"decode whole, with `PILLOW_BLOCKS_MAX={BLOCKS}`"
TIMED = ("photos", "photos with grain")


def enlarged(photos: Sequence[Image.Image]) -> Iterator[Pixels]:
    for photo in photos:
        yield np.asarray(ImageOps.fit(photo, CAMERA, Image.Resampling.BICUBIC))


def grainy(photos: Sequence[Image.Image]) -> Iterator[Pixels]:
    return (with_grain(pixels, offset=0) for pixels in enlarged(photos))


def mosaics(photos: Sequence[Image.Image]) -> Iterator[Pixels]:
    """Yield pictures of photos at their own size, each starting with another photo."""
    tiles = [np.asarray(ImageOps.fit(photo, (336, 336))) for photo in photos]
    rows, columns = HEIGHT // 336, WIDTH // 336
    for first in range(len(photos)):
        order = [tiles[(first + n) % len(tiles)] for n in range(rows * columns)]
        lines = [np.hstack(order[n * columns : (n + 1) * columns]) for n in range(rows)]
        yield np.vstack(lines)


def checks(photos: Sequence[Image.Image]) -> Iterator[Pixels]:
    y, x = np.mgrid[:HEIGHT, :WIDTH] // CHECK
    yield from _coloured(photos, (y + x) % 2)


def blocks(photos: Sequence[Image.Image]) -> Iterator[Pixels]:
    y, x = np.mgrid[:HEIGHT, :WIDTH] // BLOCK
    numbers = np.random.default_rng(0).integers(0, 8, (HEIGHT // BLOCK + 1, WIDTH // BLOCK + 1))
    yield from _coloured(photos, numbers[y, x])


def _coloured(photos: Sequence[Image.Image], numbers: NDArray[np.int64]) -> Iterator[Pixels]:
    for seed in range(len(photos)):
        yield np.random.default_rng(seed).integers(0, 256, (8, 3), dtype=np.uint8)[numbers]


KINDS: dict[str, Callable[[Sequence[Image.Image]], Iterator[Pixels]]] = {
    "photos": enlarged,
    "photos with grain": grainy,
    "mosaics of photos": mosaics,
    "checks of five pixels": checks,
    "blocks of 37 pixels": blocks,
}


def jpegs(kind: str, photos: Sequence[Image.Image]) -> Iterator[bytes]:
    for pixels in KINDS[kind](photos):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def steps(clip: EdgeCLIP, content: bytes) -> dict[str, Callable[[], object]]:
    """Return the steps from a JPEG to an embedding, by name."""
    fast, small = clip.decoding("fast"), clip.preprocess.pixels(content)

    def decode() -> None:
        with Image.open(io.BytesIO(content)) as image:
            image.load()

    size = clip.manifest.image_size
    named: dict[str, Callable[[], object]] = {
        "decode whole": decode,
        KEPT: decode,
        f"decode whole and resize to {size} pixels (`exact`)": lambda: clip.preprocess(content),
        "decode reduced and resize (`fast`)": lambda: fast.preprocess(content),
        "image tower, int8": lambda: clip.encode_image([small]),
    }
    try:
        import simplejpeg
    except ImportError:
        return named
    quarter = {"min_height": HEIGHT // 4, "min_width": WIDTH // 4}
    return {
        **named,
        "simplejpeg, whole": lambda: simplejpeg.decode_jpeg(content),
        "simplejpeg, at a quarter": lambda: simplejpeg.decode_jpeg(content, **quarter),
    }


def times(clip: EdgeCLIP, content: bytes, rounds: int) -> dict[str, float]:
    """Return the least processor time of each step, in milliseconds; steps take turns, warmed."""
    named = steps(clip, content)
    least = dict.fromkeys(named, float("inf"))
    for _ in range(rounds):
        for name, step in named.items():
            _imaging.set_blocks_max(BLOCKS if name == KEPT else 0)
            step()
            start = time.process_time()
            step()
            least[name] = min(least[name], 1e3 * (time.process_time() - start))
    _imaging.set_blocks_max(0)  # Pillow's own setting
    return least


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+", help="steps are timed with the first")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    contents = pictures(options.data / "imagenet-1k-sample.tar", options.photos)
    photos = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    clips = [EdgeCLIP.load(path, precision="int8", threads=1) for path in options.bundles]
    firsts = {kind: next(jpegs(kind, photos)) for kind in TIMED}
    results = {
        "megabytes": {kind: len(content) / 1e6 for kind, content in firsts.items()},
        "ms": {kind: times(clips[0], content, options.rounds) for kind, content in firsts.items()},
        "differences": {
            clip.name: {
                "pixels": clip.manifest.image_size,
                **{kind: bound(clip, list(jpegs(kind, photos))) for kind in KINDS},
            }
            for clip in clips
        },
        "machine": machine_facts(),
    }
    print_result(results, options.out)


if __name__ == "__main__":
    main()
