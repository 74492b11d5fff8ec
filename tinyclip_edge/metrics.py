"""The table of evaluation metrics, with their keys, labels and chance levels.

To add one, add an entry here and its value in ``train/tasks/validation.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: a share of correct results, higher is better, or a distance with its own unit."""

    key: str  # in events, tables and JSON
    label: str
    short: str  # label after other metrics in a line
    chance: Callable[[int], float]  # accuracy of guessing, by the number of labels
    headline: bool = False  # plotted over the steps, and checked before a run
    of_labels: bool = True  # all labels are candidates
    unit: str = "%"  # as shown; % stands for 100 times the share
    with_teacher: bool = False  # it compares a student with its teacher, without labels

    def text(self, value: float) -> str:
        """Return a value as it is shown."""
        return f"{100 * value:.1f} %" if self.unit == "%" else f"{value:.3f} {self.unit}"

    def label_among(self, labels: int) -> str:
        """Return the label, with the number of candidates where that is informative."""
        if self.key.startswith("t2i"):
            return self.label
        among = f"{labels:,}" if self.of_labels else f"{min(100, labels)}"
        return f"{self.label.removesuffix(' of 100')} of {among}"


def _one_in(labels: int) -> float:
    return 1 / labels


def _five_in(labels: int) -> float:
    return min(1.0, 5 / labels)


def _no_chance(labels: int) -> float:
    return math.nan


METRICS = {
    metric.key: metric
    for metric in (
        Metric("t2i_r1", "text to image R@1", "text to image R@1", _one_in, headline=True),
        Metric("t2i_r5", "text to image R@5", "R@5", _five_in),
        Metric("i2t_r1", "zero-shot top-1", "zero-shot", _one_in, headline=True),
        Metric("i2t_r5", "zero-shot top-5", "zero-shot top-5", _five_in),
        Metric(
            "zero_shot_100", "zero-shot top-1 of 100", "of 100",
            lambda labels: 1 / min(100, labels), headline=True, of_labels=False,
        ),
        Metric("agree_1", "top text as the teacher's", "top text as the teacher's", _one_in,
               with_teacher=True),
        Metric("agree_5", "teacher's top text in top 5", "in top 5", _five_in, with_teacher=True),
        Metric("agree_kl", "KL to the teacher over the texts", "KL", _no_chance, unit="nats",
               with_teacher=True),
    )
}  # fmt: skip
HEADLINES = tuple(key for key, metric in METRICS.items() if metric.headline)
# One line during a run.
PROGRESS = ("t2i_r1", "t2i_r5", "i2t_r1", "zero_shot_100", "agree_1", "agree_5", "agree_kl")
SELECTION = ("t2i_r1", "i2t_r1")
AGREEMENT = "agree_1"  # selects the student where pictures have no captions


def chance_of(labels: int) -> dict[str, float]:
    """Return the accuracies of guessing among ``labels`` labels, by the keys of the table."""
    return {
        key: metric.chance(labels) for key, metric in METRICS.items() if not metric.with_teacher
    }


def metrics_of(values: Mapping[str, object]) -> list[Metric]:
    """Return the metrics of the table that an evaluation has."""
    return [metric for key, metric in METRICS.items() if key in values]


def selection_score(metrics: Mapping[str, float]) -> float:
    """Return the score that selects the best student of a run.

    The mean top-1 of both directions; without captions, the agreement with the teacher.
    """
    if AGREEMENT in metrics:
        return metrics[AGREEMENT]
    return sum(metrics[key] for key in SELECTION) / len(SELECTION)
