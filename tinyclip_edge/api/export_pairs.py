"""The pairs for verifying an export, and others for calibration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyclip_edge.api.exporting import VerificationRequest
    from tinyclip_edge.evaluation import EvalSet
    from tinyclip_edge.runtime.protocol import ImageInput
    from tinyclip_export.settings import CalibrationPairs, PairSupplier

CALIBRATION_PAIRS = 512
MIN_PAIRS = 8  # fewer do not show the range of an activation
STARTER, STARTER_TRAIN = "starter:", "starter:train"


def export_pairs(
    request: VerificationRequest, *, calibrated: bool
) -> tuple[EvalSet, PairSupplier | None]:
    """Return the verification pairs and a function that supplies the calibration pairs.

    The two share no pair: a starter set is calibrated on its training pairs; of any other set, up
    to 512 pairs, or a quarter of a small set, are set aside without `request.calibration`. A set
    too small for that is used for both, with ``disjoint`` False. Without `calibrated` there are no
    calibration pairs. Raises DataError.
    """
    from tinyclip_edge.evaluation import evaluation_set

    data, limit, calibration = request.data, request.limit, request.calibration
    if not calibrated:
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
        return CalibrationPairs(name, images, texts, disjoint=True)
    pairs = evaluation_set(name, limit=CALIBRATION_PAIRS)
    return CalibrationPairs(name, pairs.images, pairs.texts, disjoint=True)


def _starter_train() -> tuple[list[ImageInput], list[str]]:
    """Return pairs with distinct names, evenly spaced over the split."""
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    images: dict[str, ImageInput] = {}
    for sample in read_split(kit_path(), "train"):
        images.setdefault(sample.captions[0], sample.webp)
    names = list(images)
    selected = [names[i] for i in evenly_spaced(len(names), CALIBRATION_PAIRS)]
    return [images[name] for name in selected], selected


def _split(pairs: EvalSet, limit: int) -> tuple[EvalSet, PairSupplier]:
    from tinyclip_export.settings import CalibrationPairs

    total = len(pairs)
    count = min(CALIBRATION_PAIRS, max(total - limit, total // 4))
    disjoint = count >= MIN_PAIRS
    rows = evenly_spaced(total, count) if disjoint else range(min(total, CALIBRATION_PAIRS))
    calibration_rows = set(rows)
    verification_rows = [i for i in range(total) if not disjoint or i not in calibration_rows]
    verification = pairs.select(verification_rows[:limit])
    calibration = CalibrationPairs(
        pairs.name,
        [pairs.images[i] for i in rows],
        [pairs.texts[i] for i in rows],
        disjoint=disjoint,
    )
    return verification, lambda: calibration


def evenly_spaced(total: int, count: int) -> Sequence[int]:
    """Return at most ``count`` indices below ``total``, evenly spaced."""
    return [i * total // count for i in range(min(total, count))] if total > count else range(total)
