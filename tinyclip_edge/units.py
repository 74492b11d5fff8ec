"""Durations, sizes and numbers of operations in the unit that suits them."""

from __future__ import annotations

from collections.abc import Sequence

_BYTES = ("B", "kB", "MB", "GB", "TB")
_OPERATIONS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")


def duration(seconds: float) -> str:
    """Format a duration: ``79 ms``, ``3.2 s``, ``5 min 20 s``, ``25 min``, ``3 h 05 min``."""
    if seconds < 0.9995:
        return f"{_digits(1e3 * seconds)} ms"
    if seconds < 99.5:
        return f"{_digits(seconds)} s"
    if seconds < 599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 10 else f"{round(seconds / 3600):,} h"


def counted(number: int, word: str) -> str:
    """Format a number with the word for what it counts, in the singular or plural."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def three_digits(value: float) -> str:
    """Format a number with three digits, all of them before the point from 100 on."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def size(count: float) -> str:
    """Format a number of bytes with three digits, in powers of 1,000."""
    return _scaled(count, _BYTES)


def operations(count: float) -> str:
    """Format a number of floating-point operations with three digits."""
    return _scaled(count, _OPERATIONS)


def _digits(value: float) -> str:
    """Format two digits, all of them before the point from 10 on."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _scaled(value: float, units: Sequence[str]) -> str:
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{three_digits(value) if power else round(value)} {units[power]}"
