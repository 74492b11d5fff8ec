"""Calibrated confidence: probabilities at a temperature, and the least that is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import BundleError, ConfigError, DataError, first_names, shown
from tinyclip_edge.runtime.prompts import Real, probabilities
from tinyclip_edge.runtime.protocol import Features

if TYPE_CHECKING:
    from tinyclip_edge.runtime.bundle import Manifest

CALIBRATED = "calibrated"  # instead of a number: the bundle's threshold and temperature
NAMED = 3  # labels named in a message

Threshold: TypeAlias = "float | str | None"


@dataclass(frozen=True, slots=True)
class Decision:
    """How logits become probabilities, and the lowest at which the best label is accepted."""

    threshold: float | None = None  # None: the best label is always accepted
    temperature: float = 1.0

    def probabilities(self, logits: npt.NDArray[Real], bias: float | None) -> npt.NDArray[Real]:
        """Return probabilities ``[..., C]`` of logits ``[..., C]``; ``bias`` is SigLIP's."""
        if self.temperature == 1:
            return probabilities(logits, bias)
        scaled = None if bias is None else bias / self.temperature
        return probabilities(logits / self.temperature, scaled)

    def unknown(self, best: float) -> bool | None:
        """Whether the highest probability is too low; None without a threshold."""
        return None if self.threshold is None else best < self.threshold


ALWAYS = Decision()


@dataclass(frozen=True, slots=True)
class Confidence:
    """The threshold and temperature calibrated on held-out pictures of some labels."""

    labels: tuple[str, ...]
    templates: tuple[str, ...]
    decision: Decision

    @classmethod
    def of(cls, manifest: Manifest, precision: str) -> Confidence | None:
        """Read it for a precision; None if not stored. Raises BundleError if broken."""
        entry = manifest.confidence
        if not entry:
            return None
        try:
            own = entry["precisions"][precision]
            temperature, threshold = float(own["temperature"]), float(own["threshold"])
            labels, templates = _texts(entry["labels"]), _texts(entry["templates"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"bundle {manifest.name}: confidence of {precision} is broken; export it again"
            ) from error
        return cls(labels, templates, Decision(threshold, temperature))

    def covers(self, labels: Sequence[str], templates: Sequence[str]) -> bool:
        """Whether these labels, in any order, and templates are the calibrated ones."""
        return set(labels) == set(self.labels) and tuple(templates) == self.templates


def decision(
    confidence: Confidence | None,
    labels: Sequence[str],
    templates: Sequence[str],
    threshold: Threshold,
) -> Decision:
    """Return the decision for a threshold: a probability, or ``calibrated`` for the bundle's own.

    Raises ConfigError for any other value, BundleError if nothing was calibrated, DataError for
    labels other than the calibrated ones.
    """
    if threshold is None:
        return ALWAYS
    if isinstance(threshold, str) and threshold == CALIBRATED:
        return _calibrated(confidence, labels, templates)
    if isinstance(threshold, bool | str) or not 0 <= threshold <= 1:
        raise ConfigError(f"threshold {shown(threshold)} is neither 0 to 1 nor '{CALIBRATED}'")
    return Decision(float(threshold))


def _calibrated(
    confidence: Confidence | None, labels: Sequence[str], templates: Sequence[str]
) -> Decision:
    if confidence is None:
        raise BundleError(
            "this bundle has no calibrated threshold; `tinyclip-edge export --calibrate-labels` "
            "measures one, or give a number"
        )
    if not confidence.covers(labels, templates):
        count, names = len(confidence.labels), first_names(confidence.labels, NAMED)
        raise DataError(
            f"the threshold was calibrated for {count:,} labels ({names}) in "
            f"{', '.join(map(repr, confidence.templates[:NAMED]))}; classify with the same ones, "
            "or give a number"
        )
    return confidence.decision


def tempered(
    chances: Features, temperature: float, *, independent: bool
) -> npt.NDArray[np.float64]:
    """Return probabilities ``[N, C]`` at a temperature from those at temperature 1.

    ``independent``: each label has its own sigmoid, instead of one softmax over all.
    """
    values = np.clip(chances.astype(np.float64), 1e-12, 1 - 1e-12)
    if independent:
        return probabilities(np.log(values / (1 - values)) / temperature, bias=0.0)
    return probabilities(np.log(values) / temperature, bias=None)


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        raise TypeError("not a list of texts")
    return tuple(values)
