"""How well a student agrees with its teacher: N pictures, C labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.runtime.prompts import probabilities
from tinyclip_edge.runtime.protocol import Features

LABELLED = 0.9  # minimum share of pictures whose folder names a label
FEW = 5
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement on held-out pictures: shares from 0 to 1, and nats."""

    pictures: int
    top1: float  # the student's first label is the teacher's
    top5: float  # the teacher's first label is among the student's first five
    kl: float  # mean KL divergence of the student's probabilities from the teacher's
    accuracy: float | None = None  # if folders name the labels

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def label_probabilities(
    images: Features, labels: Features, scale: float, bias: float | None
) -> npt.NDArray[np.float64]:
    """Return probabilities ``[N, C]`` of unit-norm features, as a bundle's classifier does."""
    logits = scale * (images.astype(np.float64) @ labels.astype(np.float64).T)
    return probabilities(logits, bias)


def agreement(
    teacher: npt.NDArray[np.float64],
    student: npt.NDArray[np.float64],
    targets: Sequence[int] | None = None,
) -> Agreement:
    """Compare probabilities ``[N, C]``; ``targets`` are the true labels, -1 if unknown.

    If labels are independent of each other, KL is the mean over labels.
    """
    student = np.nan_to_num(student)  # a diverged student may output NaN
    firsts = teacher.argmax(axis=1)
    order = np.argsort(-student, axis=1, kind="stable")
    few = (order[:, :FEW] == firsts[:, None]).any(axis=1)
    correct = None
    if targets is not None:
        labels = np.asarray(targets)
        correct = float((order[:, 0] == labels)[labels >= 0].mean())
    return Agreement(
        pictures=len(teacher),
        top1=float((order[:, 0] == firsts).mean()),
        top5=float(few.mean()),
        kl=_divergence(teacher, student),
        accuracy=correct,
    )


def _divergence(teacher: npt.NDArray[np.float64], student: npt.NDArray[np.float64]) -> float:
    p, q = (np.clip(each, _TINY, 1) for each in (teacher, student))
    if np.allclose(teacher.sum(axis=1), 1, atol=1e-4):
        return float((p * np.log(p / q)).sum(axis=1).mean())
    p_not, q_not = (np.clip(1 - each, _TINY, 1) for each in (p, q))
    both = p * np.log(p / q) + p_not * np.log(p_not / q_not)
    return float(both.mean())


def folder_targets(paths: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """Return the label that each picture's folder names; None unless nearly all folders name one.

    Case is ignored; underscores and hyphens count as spaces; -1 for a folder that names none.
    """
    place = {_plain(label): number for number, label in enumerate(labels)}
    targets = [place.get(_plain(PurePath(path).parent.name), -1) for path in paths]
    named = sum(target >= 0 for target in targets)
    if not targets or named < LABELLED * len(targets) or len(set(targets) - {-1}) < 2:
        return None
    return targets


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
