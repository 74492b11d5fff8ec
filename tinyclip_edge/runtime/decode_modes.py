"""The table of decode modes: how a picture becomes the size of a model's input."""

from __future__ import annotations

from typing import NamedTuple

from tinyclip_edge.errors import ConfigError, did_you_mean


class DecodeMode(NamedTuple):
    """What a picture may lose before it is resampled to a model's input."""

    text: str
    # Times the input's size that a JPEG has at least when it is decoded at 1/2, 1/4 or 1/8 of its
    # own, and any picture when it is averaged in squares of whole pixels; None: it is not.
    decoded: float | None = None
    averaged: float | None = None


EXACT, FAST = "exact", "fast"
DECODE_MODES = {
    EXACT: DecodeMode("every pixel, as open_clip's transform does"),
    # Measured by benchmarks/file_to_embedding.py. libjpeg leaves out frequencies and hardly blurs;
    # averages of squares blur more, and cost less than decoding.
    FAST: DecodeMode("large pictures reduced first, to some levels in 255", 2.0, 3.0),
}


def decode_mode(name: str) -> DecodeMode:
    """Return a mode by its name; raise ConfigError for another."""
    if name not in DECODE_MODES:
        raise ConfigError(f"decode {name!r}{did_you_mean(str(name), DECODE_MODES)}")
    return DECODE_MODES[name]
