"""The table of evaluation metrics, with their keys, labels and chance levels.

To add one, add an entry here and its value in ``train/tasks/validation.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: the share of correct answers; higher is better."""

    key: str  # in events, tables and JSON
    label: str
    short: str  # after other metrics in a line
    chance: Callable[[int], float]  # accuracy of guessing, by the number of labels
    headline: bool = False  # drawn over steps, and judged before a run
    of_labels: bool = True  # candidates are the labels, all of them
    unit: str = "%"  # as shown; 100 times the share

    def label_among(self, labels: int) -> str:
        """Return the label with the number of candidates, where that says more."""
        if self.key.startswith("t2i"):
            return self.label
        among = f"{labels:,}" if self.of_labels else f"{min(100, labels)}"
        return f"{self.label.removesuffix(' of 100')} of {among}"


def _one_in(labels: int) -> float:
    return 1 / labels


def _five_in(labels: int) -> float:
    return min(1.0, 5 / labels)


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
    )
}  # fmt: skip
HEADLINES = tuple(key for key, metric in METRICS.items() if metric.headline)
PROGRESS = ("t2i_r1", "t2i_r5", "i2t_r1", "zero_shot_100")  # one line during a run
SELECTION = ("t2i_r1", "i2t_r1")


def chance_of(labels: int) -> dict[str, float]:
    """Return the accuracies of guessing among ``labels`` labels, by the keys of the table."""
    return {key: metric.chance(labels) for key, metric in METRICS.items()}


def selection_score(metrics: Mapping[str, float]) -> float:
    """Return the score that selects the best student of a run: mean top-1 of both directions."""
    return sum(metrics[key] for key in SELECTION) / len(SELECTION)
