"""A source of pairs, ``squares:COUNT``, and a teacher, ``frozen-start:MODEL``."""

from collections.abc import Iterator

import torch
from PIL import Image

from tinyclip_edge.config.source_options import SourceOptions
from tinyclip_edge.data import Pair
from tinyclip_edge.models import LoadedClip, load_clip

COLOURS = ("red", "lime", "blue", "white", "black", "orange", "teal", "pink")


class Squares:
    """One part of the source; a large source has many, read in a random order."""

    def __init__(self, count: int) -> None:
        self.fingerprint = f"squares of {count}"  # changes when its pairs do
        self.pairs = self.at_most = count
        self.size = None

    def __iter__(self) -> Iterator[Pair]:
        for number in range(self.pairs):
            colour = COLOURS[number % len(COLOURS)]
            side = 8 + number
            image = Image.new("RGB", (side, side), colour)
            caption = f"{number} {colour} squares"
            yield Pair(str(number), image, (caption,), concept=caption)


def squares(address: str, options: SourceOptions) -> list[Squares]:
    """Return the parts of ``squares:COUNT``."""
    return [Squares(int(address))]


def untrained(address: str, device: str | torch.device) -> LoadedClip:
    """Return a model of this name with random weights."""
    torch.manual_seed(0)
    return load_clip(address, device=device, allow_random=True)
