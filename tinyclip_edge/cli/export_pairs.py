"""Pairs that an export is verified on, and others that it is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyclip_edge.evaluation import EvalSet
    from tinyclip_edge.runtime.protocol import ImageInput
    from tinyclip_export.settings import CalibrationPairs, PairSupplier

CALIBRATION_PAIRS = 512
LEAST_PAIRS = 8  # fewer say nothing of a range
STARTER, STARTER_TRAIN = "starter:", "starter:train"


def export_pairs(
    data: str, limit: int, calibration: str | None, *, whole: bool = False
) -> tuple[EvalSet, PairSupplier | None]:
    """Return what is verified on, at most `limit` pairs, and what gives the calibration pairs.

    The two share no pair: a starter set is calibrated on the pairs for training, any other set
    without `calibration` gives up to 512 pairs, a quarter of a small one. A set too small for that
    is used for both, and the pairs then say so. With `whole` nothing is calibrated. Raises
    DataError.
    """
    from tinyclip_edge.evaluation import evaluation_set

    if whole:
        return evaluation_set(data, limit=limit), None
    if calibration is None and data.startswith(STARTER):
        calibration = STARTER_TRAIN
    if calibration is not None and calibration != data:
        return evaluation_set(data, limit=limit), partial(_read, calibration)
    return _split(evaluation_set(data, limit=limit + CALIBRATION_PAIRS), limit)


def _read(name: str) -> CalibrationPairs:
    from tinyclip_edge.evaluation import evaluation_set
    from tinyclip_export.settings import CalibrationPairs

    if name == STARTER_TRAIN:
        images, texts = _starter_train()
        return CalibrationPairs(name, images, texts, apart=True)
    found = evaluation_set(name, limit=CALIBRATION_PAIRS)
    return CalibrationPairs(name, found.images, found.texts, apart=True)


def _starter_train() -> tuple[list[ImageInput], list[str]]:
    """Return pairs of distinct names, spread over the whole split."""
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    first: dict[str, ImageInput] = {}
    for sample in read_split(kit_path(), "train"):
        first.setdefault(sample.captions[0], sample.webp)
    names = list(first)
    taken = [names[i] for i in _spread(len(names), CALIBRATION_PAIRS)]
    return [first[name] for name in taken], taken


def _split(found: EvalSet, limit: int) -> tuple[EvalSet, PairSupplier]:
    from tinyclip_export.settings import CalibrationPairs

    total = len(found)
    held = min(CALIBRATION_PAIRS, max(total - limit, total // 4))
    apart = held >= LEAST_PAIRS
    ours = set(_spread(total, held)) if apart else set(range(min(total, CALIBRATION_PAIRS)))
    theirs = [i for i in range(total) if not apart or i not in ours][:limit]
    verified = replace(
        found,
        images=tuple(found.images[i] for i in theirs),
        texts=tuple(found.texts[i] for i in theirs),
        subsets={},
    )
    rest = CalibrationPairs(
        found.name,
        [found.images[i] for i in sorted(ours)],
        [found.texts[i] for i in sorted(ours)],
        apart=apart,
    )
    return verified, lambda: rest


def _spread(total: int, count: int) -> Sequence[int]:
    return [i * total // count for i in range(min(total, count))] if total > count else range(total)
