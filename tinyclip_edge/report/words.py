"""Numbers formatted for readers."""

from __future__ import annotations

from tinyclip_edge import units
from tinyclip_edge.report.drawing import number

NONE = "–"


def sentence(words: str) -> str:
    """Capitalise the first letter only, so that abbreviations stay as they are."""
    return words[:1].upper() + words[1:]


def percent(value: object) -> str:
    """Format a share of 1 in per cent."""
    share = number(value)
    return NONE if share is None else f"{100 * share:.1f} %"


def count(value: object) -> str:
    """Format a whole number."""
    total = number(value)
    return NONE if total is None else f"{total:,.0f}"


def figures(value: object) -> str:
    """Format a number with four significant figures."""
    value = number(value)
    return NONE if value is None else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def millions(value: object) -> str:
    """Format a number of parameters in millions."""
    parameters = number(value)
    return NONE if parameters is None else f"{parameters / 1e6:.2f} M"


def duration(seconds: float | None) -> str:
    """Format a duration in the unit that suits it."""
    return NONE if seconds is None else units.duration(seconds)


def megabytes(size: object) -> str:
    """Format bytes in units of 10^6."""
    byte_count = number(size)
    return NONE if byte_count is None else f"{byte_count / 1e6:.1f}"


def points_of(value: object) -> str:
    """Format a value that is in per cent already."""
    points = number(value)
    return NONE if points is None else f"{points:.1f} %"
