"""Reproducible random crops of pictures: each depends on a seed, a key and a number.

V views per picture, numbered from 0. A crop is the same as torchvision's RandomResizedCrop with a
separate generator.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tinyclip_edge.data.pairs import Pair, Picture, UndecodableImageError, decode_image
from tinyclip_edge.errors import DataError

Ints = npt.NDArray[np.int64]
RATIO = (3 / 4, 4 / 3)  # width over height of a crop
TRIES = 10  # attempts to place a crop inside; then the centre is used
DRAWS = 7  # stream index of the generator for views


def view_seed(key: str, view: int) -> int:
    """Return the seed of a picture's view, 63 bits; equal in every run, so caches stay valid."""
    text = f"{view} {key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def crop_box(
    width: int, height: int, scale: tuple[float, float], seed: int
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a random crop, in pixels."""
    noise = torch.Generator().manual_seed(seed)
    ratios = torch.tensor(RATIO).log().tolist()
    for _ in range(TRIES):
        area = width * height * _uniform(scale, noise).item()
        ratio = _uniform(ratios, noise).exp().item()
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            y = int(torch.randint(height - high + 1, (1,), generator=noise))
            x = int(torch.randint(width - wide + 1, (1,), generator=noise))
            return x, y, x + wide, y + high
    wide, high = width, height
    if width / height < RATIO[0]:
        high = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        wide = round(height * RATIO[1])
    x, y = (width - wide) // 2, (height - high) // 2
    return x, y, x + wide, y + high


def _uniform(bounds: Sequence[float], noise: torch.Generator) -> Tensor:
    return torch.empty(1).uniform_(*bounds, generator=noise)


@dataclass(frozen=True, slots=True)
class Crops:
    """The views of every picture: their number, their area, and their size."""

    count: int  # V, at least 1
    scale: tuple[float, float]  # of the area
    size: tuple[int, int]  # pixels: height, width

    def seeds(self, key: str) -> list[int]:
        """Return the seeds of a picture's views."""
        return [view_seed(key, view) for view in range(self.count)]

    def seed(self, pair: Pair, view: int) -> int:
        """Return the seed of one view, which identifies its cached features."""
        cached = pair.cached
        return view_seed(pair.key, view) if cached is None else int(cached.seeds[view])

    def draw_views(self, seed: int, step: int, size: int) -> list[int]:
        """Return the view of each of ``size`` pairs of a step."""
        random = np.random.default_rng([seed, DRAWS, step])
        views: list[int] = random.integers(self.count, size=size).tolist()
        return views

    def decode(self, picture: Picture, *seeds: int) -> Tensor | None:
        """Return uint8 ``[len(seeds), 3, H, W]``; None if the picture cannot be decoded."""
        try:
            image = decode_image(picture)
            return torch.stack([self._crop(image, seed) for seed in seeds])
        except UndecodableImageError:
            return None

    def decode_one(self, picture: Picture, seed: int) -> Tensor | None:
        """Return uint8 ``[3, H, W]``; None if the picture cannot be decoded."""
        crops = self.decode(picture, seed)
        return None if crops is None else crops[0]

    def _crop(self, image: Image.Image, seed: int) -> Tensor:
        height, width = self.size
        part = image.crop(crop_box(*image.size, self.scale, seed))
        shown = part.resize((width, height), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(shown).transpose(2, 0, 1).copy())


class ViewedPictures:
    """N encoded pictures; a batch decodes the views that it uses, with several threads."""

    def __init__(
        self, keys: Sequence[str], pictures: Sequence[Picture], crops: Crops, workers: int
    ) -> None:
        self.crops = crops
        self.seeds: Ints = np.array([crops.seeds(key) for key in keys], dtype=np.int64)
        self._keys = keys
        self._pictures = pictures
        self._pool = ThreadPoolExecutor(workers)

    @property
    def nbytes(self) -> int:
        """Bytes of the encoded pictures in memory; files are read again each time."""
        return sum(len(one) for one in self._pictures if isinstance(one, bytes))

    def begin(self, ids: Ints, view: int) -> list[Future[Tensor | None]]:
        """Start decoding a view of pictures ``ids``."""
        decode = self.crops.decode_one
        return [self._pool.submit(decode, self._pictures[i], int(self.seeds[i, view])) for i in ids]

    def finish(self, ids: Ints, begun: Sequence[Future[Tensor | None]]) -> Tensor:
        """Return uint8 ``[B, 3, H, W]``; raise DataError for a file that has been removed since."""
        pictures = []
        for number, future in zip(ids, begun, strict=True):
            pixels = future.result()
            if pixels is None:
                raise DataError(f"image '{self._keys[number]}' can no longer be decoded")
            pictures.append(pixels)
        return torch.stack(pictures)
