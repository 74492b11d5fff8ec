"""Rows of an index: check them, choose them by position or metadata, join those of two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, did_you_mean, shown

Metadata: TypeAlias = "Mapping[str, Any]"
Predicate: TypeAlias = "Callable[[str, Metadata], bool]"
ON_DUPLICATE = ("raise", "first", "last")
_NO_METADATA: Metadata = {}
Value = TypeVar("Value")


def check_columns(
    features: npt.NDArray[Any], width: int | None, columns: Mapping[str, Sized | None]
) -> None:
    """Raise DataError unless features are ``[N, D]`` and all columns have N values.

    int8 features need scales, others must not have them; D is at most ``width``.
    """
    keys, shape = columns["keys"], list(features.shape)
    if features.ndim != 2 or keys is None or len(keys) != len(features):
        raise DataError(f"index: {len(keys or ()):,} keys do not match features {shape}")
    if (features.dtype == np.int8) != (columns["scales"] is not None):
        raise DataError("index: int8 features need scales, and other features must not have them")
    for name, values in columns.items():
        if values is not None and (len(values) != len(features) or getattr(values, "ndim", 1) != 1):
            raise DataError(f"index: {len(features):,} keys do not match {len(values)} {name}")
    if width is not None and width < features.shape[1]:
        raise DataError(f"index: {features.shape[1]} dimensions are more than the model's {width}")


def select(values: Sequence[Value], rows: slice | npt.NDArray[np.intp]) -> tuple[Value, ...]:
    """Return some values of a column."""
    return tuple(values[rows] if isinstance(rows, slice) else (values[i] for i in rows))


def row_numbers(rows: object, count: int) -> slice | npt.NDArray[np.intp]:
    """Return a slice unchanged, and row numbers or one bool per row as row numbers.

    Raise DataError for anything else, and for rows beyond ``count``.
    """
    if isinstance(rows, slice):
        return rows
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "biu"):
        raise DataError(
            f"index[{shown(rows)}]: use a slice or a list of row numbers; index.vector(key) is the "
            "embedding of one picture"
        )
    if chosen.dtype == bool:
        if len(chosen) != count:
            raise DataError(f"index: {len(chosen):,} bools do not match {count} pictures")
        return slice(None) if chosen.all() else np.flatnonzero(chosen)  # a slice copies nothing
    numbers = chosen.astype(np.intp)
    if numbers.size and not -count <= numbers.min() <= numbers.max() < count:
        raise DataError(f"index: a row number is beyond its {count} pictures")
    return numbers


def matching_rows(
    keys: Sequence[str],
    metadata: Sequence[Metadata] | None,
    predicate: Predicate | None,
    equal: Metadata,
) -> npt.NDArray[np.bool_]:
    """Return one bool per picture: whether the predicate holds and metadata have these values."""

    def matches(key: str, entry: Metadata) -> bool:
        return all(name in entry and entry[name] == value for name, value in equal.items()) and (
            predicate is None or bool(predicate(key, entry))
        )

    entries = [_NO_METADATA] * len(keys) if metadata is None else metadata
    return np.array([matches(*row) for row in zip(keys, entries, strict=True)], dtype=bool)


def joined_rows(
    first: Sequence[str], last: Sequence[str], on_duplicate: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which rows of two lists of keys stay when the lists become one.

    Raise DataError for a key of both if ``on_duplicate`` is "raise".
    """
    if on_duplicate not in ON_DUPLICATE:
        raise DataError(f"on_duplicate {on_duplicate!r}{did_you_mean(on_duplicate, ON_DUPLICATE)}")
    common = set(first).intersection(last)
    if common and on_duplicate == "raise":
        raise DataError(
            f"index: {shown(min(common))} is already in it{_others(len(common))}; update replaces "
            'pictures, merge(…, on_duplicate="first") keeps them'
        )
    keeps_first = np.array(
        [on_duplicate == "first" or key not in common for key in first], dtype=bool
    )
    keeps_last = np.array([on_duplicate == "last" or key not in common for key in last], dtype=bool)
    return keeps_first, keeps_last


def joined_metadata(
    first: Sequence[Metadata] | None, last: Sequence[Metadata] | None, counts: tuple[int, int]
) -> tuple[Metadata, ...] | None:
    """Return the metadata of two indexes as one; empty tables where only one has any."""
    if first is None and last is None:
        return None
    parts = zip((first, last), counts, strict=True)
    return tuple(
        entry
        for part, count in parts
        for entry in ([_NO_METADATA] * count if part is None else part)
    )


def joined_scales(
    first: npt.NDArray[Any] | None, last: npt.NDArray[Any] | None
) -> npt.NDArray[Any] | None:
    """Return the scales of two indexes of the same type as one."""
    return None if first is None or last is None else np.concatenate([first, last])


def joined_stamps(
    first: npt.NDArray[Any] | None, last: npt.NDArray[Any] | None, counts: tuple[int, int]
) -> npt.NDArray[Any] | None:
    """Return the file stamps of two indexes as one; zeros where only one has any."""
    present = first if first is not None else last
    if present is None:
        return None
    parts = zip((first, last), counts, strict=True)
    return np.concatenate(
        [np.zeros(count, present.dtype) if part is None else part for part, count in parts]
    )


def repeated(keys: Sequence[str]) -> tuple[str, int] | None:
    """Return one key that occurs more than once and the number of such keys, or None."""
    if len(set(keys)) == len(keys):
        return None
    seen: set[str] = set()
    twice = {key for key in keys if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
    return min(twice), len(twice)


def _others(count: int) -> str:
    return f", and {count - 1:,} more" if count > 1 else ""
