"""How well a student agrees with its teacher about pictures without captions.

N pictures, M texts; L labels in T templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import torch
from torch import Tensor

from tinyclip_edge.config.sources import TextsConfig, TextsSource
from tinyclip_edge.data.texts import open_labels

TOP = 5


def agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """Return ``agree_1``, ``agree_5`` and ``agree_kl`` of logits ``[N, M]``.

    The shares of pictures whose best text for the teacher is the student's best, or among its best
    five, and the mean KL divergence of the student's distribution over texts from the teacher's, in
    nats. A tie counts as a miss, and so does NaN.
    """
    ahead = count_ahead(student, teacher.argmax(dim=1))
    log_p, log_q = teacher.double().log_softmax(dim=1), student.double().log_softmax(dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    return {
        "agree_1": ahead.eq(0).double().mean().item(),
        "agree_5": ahead.lt(TOP).double().mean().item(),
        "agree_kl": divergence.mean().item(),
    }


def folder_labels(keys: Sequence[str], source: TextsSource) -> Tensor | None:
    """Return the label ``[N]`` that each picture's folder names; None if a folder names none.

    Case is ignored, and underscores count as spaces.
    """
    if not isinstance(source, TextsConfig):
        return None
    numbers = {label.casefold(): number for number, label in enumerate(open_labels(source))}
    names = [PurePosixPath(key).parent.name.replace("_", " ").casefold() for key in keys]
    if not all(name in numbers for name in names):
        return None
    return torch.tensor([numbers[name] for name in names])


def label_accuracy(logits: Tensor, labels: Tensor, templates: int) -> float:
    """Return the share of pictures whose label has the highest mean logit over its templates.

    ``logits [N, L * T]`` have each label's templates side by side. A tie counts as a miss.
    """
    scores = logits.reshape(len(logits), -1, templates).mean(dim=2)
    return count_ahead(scores, labels).eq(0).double().mean().item()


def count_ahead(scores: Tensor, own: Tensor) -> Tensor:
    """Return how many of a row's other scores ``[N, C]`` are not lower than that of column ``own``.

    ``own`` and the result are ``[N]``. NaN counts as not lower.
    """
    return (~scores.lt(scores.gather(1, own[:, None]))).sum(dim=1) - 1
