"""The evaluation sets of the starter kit, ``starter:SPLIT``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tinyclip_edge.errors import DataError, did_you_mean
from tinyclip_edge.evaluation.eval_set import EvalSet

if TYPE_CHECKING:
    from tinyclip_edge.starter.kit import KitSample

STARTER = "starter:"


def starter_split(source: str) -> str:
    """Return the split that a starter set names. Raises DataError for an unknown one."""
    split = source.removeprefix(STARTER)
    if split not in _STARTER_SETS:
        raise DataError(f"no starter set {split!r}{did_you_mean(split, _STARTER_SETS)}")
    return split


def starter_set(source: str, limit: int | None) -> EvalSet:
    """Open a starter set by name, with at most ``limit`` images. Raises DataError."""
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    split = starter_split(source)
    canonical = [sample for sample in read_split(kit_path(), split) if sample.about["canonical"]]
    return _STARTER_SETS[split](source, canonical, limit)


def _test_style(source: str, samples: Sequence[KitSample], limit: int | None) -> EvalSet:
    emoji = _of_kind(samples, "emoji")
    icons = _set(f"{source} icons", _of_kind(samples, "icon"), limit, {})
    subset_filters: dict[str, Callable[[KitSample], bool]] = {
        "without flags": lambda sample: not sample.about["flag"],
        "flags": lambda sample: bool(sample.about["flag"]),
    }
    emoji_set = _set(source, emoji, limit, subset_filters)
    return EvalSet(
        emoji_set.name,
        emoji_set.images,
        emoji_set.texts,
        emoji_set.subsets,
        {"icons": icons} if icons else {},
    )


def _by_kind(source: str, samples: Sequence[KitSample], limit: int | None) -> EvalSet:
    both = [*_of_kind(samples, "emoji"), *_of_kind(samples, "icon")]
    subset_filters: dict[str, Callable[[KitSample], bool]] = {
        "emoji": lambda sample: sample.about["kind"] == "emoji",
        "icons": lambda sample: sample.about["kind"] == "icon",
    }
    return _set(source, both, limit, subset_filters)


_STARTER_SETS: dict[str, Callable[[str, Sequence[KitSample], int | None], EvalSet]] = {
    "test_style": _test_style,
    "test_concepts": _by_kind,
    "val": _by_kind,
}


def _of_kind(samples: Sequence[KitSample], kind: str) -> list[KitSample]:
    return [sample for sample in samples if sample.about["kind"] == kind]


def _set(
    name: str,
    samples: Sequence[KitSample],
    limit: int | None,
    subset_filters: dict[str, Callable[[KitSample], bool]],
) -> EvalSet:
    # One picture per name: a second one would be a correct result that counts as wrong.
    by_name: dict[str, KitSample] = {}
    for sample in samples:
        by_name.setdefault(sample.captions[0], sample)
    distinct = _evenly_spaced(list(by_name.values()), limit)
    subsets = {
        label: tuple(i for i, sample in enumerate(distinct) if belongs(sample))
        for label, belongs in subset_filters.items()
    }
    return EvalSet(
        name,
        tuple(sample.webp for sample in distinct),
        tuple(sample.captions[0] for sample in distinct),
        {label: positions for label, positions in subsets.items() if positions},
    )


def _evenly_spaced(samples: list[KitSample], limit: int | None) -> list[KitSample]:
    if limit is None or limit >= len(samples):
        return samples
    return [samples[i * len(samples) // limit] for i in range(limit)]
