"""Numbers as a reader takes them in."""

from __future__ import annotations

from tinyclip_edge.report.drawing import number

NONE = "–"


def sentence(words: str) -> str:
    """Return words with a capital at their start, abbreviations as they are."""
    return words[:1].upper() + words[1:]


def percent(value: object) -> str:
    """Return a share in per cent."""
    found = number(value)
    return NONE if found is None else f"{100 * found:.1f} %"


def count(value: object) -> str:
    """Return a whole number."""
    found = number(value)
    return NONE if found is None else f"{found:,.0f}"


def figures(value: object) -> str:
    """Return a number with four figures."""
    found = number(value)
    return NONE if found is None else f"{found:,.0f}" if abs(found) >= 1e4 else f"{found:.4g}"


def millions(value: object) -> str:
    """Return a number of parameters."""
    found = number(value)
    return NONE if found is None else f"{found / 1e6:.2f} M"


def duration(seconds: float | None) -> str:
    """Return seconds as people say them."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def megabytes(size: object) -> str:
    """Return bytes in units of 10^6."""
    found = number(size)
    return NONE if found is None else f"{found / 1e6:.1f}"


def points_of(value: object) -> str:
    """Return what is in per cent already."""
    found = number(value)
    return NONE if found is None else f"{found:.1f} %"
