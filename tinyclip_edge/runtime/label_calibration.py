"""Calibrate a bundle's probabilities on held-out pictures of its labels.

Shapes: N pictures, C labels. Temperature and expected calibration error are those of Guo et al.
(2017, "On calibration of modern neural networks").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.confidence import Decision
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.prompts import check_prompts, class_features
from tinyclip_edge.runtime.protocol import Embedder, Features, ImageInput

BINS = 15  # of equal width, as in Guo et al.
COVERAGE = 0.95  # share of right answers that the threshold accepts
MIN_RIGHT = math.ceil(1 / (1 - COVERAGE)) - 1  # fewer right answers cannot show that share
MIN_IMAGES = 2 * MIN_RIGHT
COLDEST, HOTTEST = 0.25, 20.0  # temperatures; if every answer is right, the best would be 0
STEPS = 60  # of the search: each narrows the range to 0.62 of it

Floats = npt.NDArray[np.float64]
Targets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pictures that were not trained on, with their labels."""

    images: Sequence[ImageInput]
    targets: Sequence[int]  # positions in labels
    labels: tuple[str, ...]
    templates: tuple[str, ...] = ("{}",)
    labelled_by: str = "folders"  # or the name of the model that chose the targets

    @classmethod
    def by_teacher(
        cls,
        teacher: Embedder,
        images: Sequence[ImageInput],
        labels: Sequence[str],
        templates: Sequence[str] = ("{}",),
    ) -> HeldOut:
        """Return pictures with the labels that a teacher assigns to them. Raises DataError."""
        classes = class_features(teacher, labels, templates)
        targets = (teacher.encode_image(images) @ classes.T).argmax(axis=1)
        return cls(images, targets.tolist(), tuple(labels), tuple(templates), teacher.name)

    def check(self) -> None:
        """Raise DataError for too few pictures, one label, or targets that are not labels."""
        if len(self.labels) < 2:
            raise DataError("a threshold needs at least two labels")
        if len(self.images) != len(self.targets):
            raise DataError(f"{len(self.images):,} images have {len(self.targets):,} targets")
        if len(self.images) < MIN_IMAGES:
            raise DataError(
                f"{len(self.images):,} held-out images are too few to calibrate a threshold; give "
                f"at least {MIN_IMAGES}"
            )
        if not all(0 <= target < len(self.labels) for target in self.targets):
            raise DataError("a held-out image has a target that is not a label")


def calibrate_bundle(
    folder: str | Path, held_out: HeldOut, *, notify: Callable[[str], None] = lambda text: None
) -> Mapping[str, Any]:
    """Measure all precisions of a bundle, write ``confidence`` into its manifest and return it.

    Raises DataError for unusable pictures or labels, BundleError for a broken bundle.
    """
    held_out.check()
    manifest = Manifest.read(folder)
    entries = {}
    for precision in manifest.precisions():
        notify(f"calibrating {precision} on {len(held_out.images):,} images")
        entries[precision] = measure_confidence(
            EdgeCLIP.load(folder, precision=precision), held_out
        )
    confidence = {
        "labels": list(held_out.labels),
        "templates": list(held_out.templates),
        "images": len(held_out.images),
        "labelled_by": held_out.labelled_by,
        "coverage": COVERAGE,
        "precisions": entries,
    }
    replace(manifest, confidence=confidence).write(folder)
    return confidence


def measure_confidence(clip: EdgeCLIP, held_out: HeldOut) -> dict[str, float]:
    """Return the manifest's entry of one precision. Raises DataError."""
    check_prompts(clip, held_out.labels, held_out.templates)
    classes = class_features(clip, held_out.labels, held_out.templates)
    logits = clip.logit_scale * (clip.encode_image(held_out.images) @ classes.T)
    return confidence_of(logits, held_out.targets, clip.manifest.logit_bias)


def confidence_of(
    logits: Features, targets: Sequence[int], bias: float | None = None
) -> dict[str, float]:
    """Return temperature, threshold and their effect for logits ``[N, C]`` and targets ``[N]``.

    ``ece_after`` is cross-validated: each half of the pictures uses the temperature fitted to the
    other half. Raises DataError if too few answers are right.
    """
    values, labels = np.asarray(logits, np.float64), np.asarray(targets, np.int64)
    temperature = fit_temperature(values, labels, bias)
    right = values.argmax(axis=1) == labels
    best = _best(values, temperature, bias)
    correct = np.sort(best[right])
    place = math.floor((len(correct) + 1) * (1 - COVERAGE) + 1e-9)
    if place < 1:
        raise DataError(
            f"only {len(correct):,} of {len(values):,} held-out images are classified right; a "
            f"threshold needs {MIN_RIGHT}"
        )
    threshold = math.floor(correct[place - 1] * 1e6) / 1e6  # rounded down: it must not reject it
    return {
        "temperature": float(f"{temperature:.6g}"),
        "threshold": threshold,
        "ece_before": _rounded(expected_calibration_error(_best(values, 1.0, bias), right)),
        "ece_after": _rounded(expected_calibration_error(_crossed(values, labels, bias), right)),
        "accuracy": _rounded(float(right.mean())),
        "right_answered": _rounded(float((best[right] >= threshold).mean())),
        "wrong_answered": _rounded(_mean(best[~right] >= threshold)),
    }


def expected_calibration_error(
    confidences: Features | Floats, correct: npt.NDArray[np.bool_], bins: int = BINS
) -> float:
    """Return the mean distance between confidence and accuracy over bins of equal width.

    ``confidences [N]`` are the probabilities of the best labels, and ``correct [N]`` whether those
    are right. A bin contains its upper bound and is weighted by its share of the pictures.
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    gaps = np.bincount(places, np.asarray(confidences, np.float64) - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def fit_temperature(logits: Floats, targets: Targets, bias: float | None = None) -> float:
    """Return the temperature from COLDEST to HOTTEST with the least negative log-likelihood.

    The loss is convex in the inverse temperature, so narrowing the range leads to its minimum.
    """
    low, high = math.log(COLDEST), math.log(HOTTEST)
    ratio = (math.sqrt(5) - 1) / 2  # golden section
    for _ in range(STEPS):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        if _loss(logits, targets, bias, first) <= _loss(logits, targets, bias, second):
            high = second
        else:
            low = first
    return math.exp((low + high) / 2)


def _loss(logits: Floats, targets: Targets, bias: float | None, log_temperature: float) -> float:
    """Return the mean negative log-likelihood of the targets."""
    scaled = (logits + (bias or 0.0)) / math.exp(log_temperature)
    if bias is not None:  # one sigmoid a label
        signs = np.full_like(scaled, -1.0)
        signs[np.arange(len(targets)), targets] = 1.0
        return float(np.logaddexp(0, -signs * scaled).sum(axis=1).mean())
    own = scaled[np.arange(len(targets)), targets]
    return float((np.logaddexp.reduce(scaled, axis=1) - own).mean())


def _best(logits: Floats, temperature: float, bias: float | None) -> Floats:
    """Return the probability ``[N]`` of each picture's best label."""
    best: Floats = Decision(temperature=temperature).probabilities(logits, bias).max(axis=1)
    return best


def _crossed(logits: Floats, targets: Targets, bias: float | None) -> Floats:
    """Return the best probabilities ``[N]`` of each half at the temperature of the other."""
    best = np.empty(len(logits))
    for own in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - own.start, None, 2)
        best[own] = _best(logits[own], fit_temperature(logits[other], targets[other], bias), bias)
    return best


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _mean(values: npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else 0.0
