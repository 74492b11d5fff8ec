"""The table of decode modes: how a picture is brought to the size of a model's input."""

from __future__ import annotations

from typing import NamedTuple

from tinyclip_edge.errors import ConfigError, did_you_mean


class DecodeMode(NamedTuple):
    """How far a picture may be reduced before it is resampled to a model's input."""

    text: str
    # Least size after a reduction, as a multiple of the size it is then resampled to: for a JPEG
    # decoded at 1/2, 1/4 or 1/8, and for any picture averaged in squares of pixels. None: not done.
    decoded: float | None = None
    averaged: float | None = None


EXACT, FAST = "exact", "fast"
DECODE_MODES = {
    EXACT: DecodeMode("every pixel, as open_clip's transform does"),
    # Measured by benchmarks/file_to_embedding.py. libjpeg leaves out frequencies and hardly blurs;
    # averaging squares blurs more but costs less than decoding.
    FAST: DecodeMode("large pictures reduced first: off by a few levels in 255", 2.0, 3.0),
}


def decode_mode(name: str) -> DecodeMode:
    """Return a mode by its name; raise ConfigError for another."""
    if name not in DECODE_MODES:
        raise ConfigError(f"decode {name!r}{did_you_mean(str(name), DECODE_MODES)}")
    return DECODE_MODES[name]
