"""Combine importance on several calibrations, such as general pairs and pairs of a domain.

A score is the curvature of an affinity loss, and curvatures add up as losses do. A unit's score on
K calibrations is therefore that of the weighted sum of their losses. To make losses on different
pictures and texts comparable, each is divided by its mean curvature along a dimension of the
embedding:

    S = w_1 S_1 / c_1 + ... + w_K S_K / c_K

The affinity KL by which layers are chosen is combined in the same way. The idea of pruning by the
importance for general knowledge and for a domain at once is D-Pruner's (Zhang et al. 2024, arXiv
2405.06275).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.plan_types import InheritancePlan
from tinyclip_edge.inheritance.probe import UnitScores
from tinyclip_edge.inheritance.resnet_probe import ResNetScores
from tinyclip_edge.inheritance.staged_probe import StagedScores

Scores: TypeAlias = UnitScores | ResNetScores | StagedScores

# Fields of a tower's plan that are chosen by scores.
CHOSEN = frozenset(
    {"channels", "heads", "neurons", "pool_heads", "pool_neurons", "stem", "inner", "outer",
     "final", "parts"}
)  # fmt: skip


def mixture_factors(weights: Sequence[float], embeddings: Sequence[Tensor]) -> tuple[float, ...]:
    """Return w_k / c_k of each calibration; 1 for a single one, whose scores are unchanged.

    ``embeddings`` are the scores ``[D]`` of the embedding's dimensions. Raises InheritanceError
    if those of a calibration are all zero, as with equal texts.
    """
    if len(weights) == 1:
        return (1.0,)
    means = [float(scores.double().mean()) for scores in embeddings]
    if not all(mean > 0 for mean in means):
        raise InheritanceError(
            "calibration pictures or texts are all alike, so importance cannot be measured; give "
            "different ones"
        )
    return tuple(weight / mean for weight, mean in zip(weights, means, strict=True))


def mixed_scores(scores: Sequence[Scores], factors: Sequence[float]) -> Scores:
    """Return the weighted sum of the scores of some units, field by field."""
    if len(scores) == 1:
        return scores[0]
    columns = zip(*scores, strict=True)
    mixed: Scores = type(scores[0])(*(_mixed(column, factors) for column in columns))
    return mixed


def mixed_tensor(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Return the weighted sum of tensors; a single one unchanged."""
    if len(tensors) == 1:
        return tensors[0]
    weighted = (factor * tensor for factor, tensor in zip(factors, tensors, strict=True))
    total = next(weighted)
    for each in weighted:
        total = total + each
    return total


def _mixed(values: Sequence[Any], factors: Sequence[float]) -> Any:  # noqa: ANN401
    """Return the weighted sum of tensors, or of the tensors of equally long tuples."""
    if isinstance(values[0], Tensor):
        return mixed_tensor(values, factors)
    return tuple(_mixed(column, factors) for column in zip(*values, strict=True))


def shared_units(one: InheritancePlan, other: InheritancePlan) -> dict[str, float]:
    """Return, by tower, the share of one plan's units that another plan of equal layers has."""
    shares = {}
    for tower in ("image", "text"):
        first, second = getattr(one, tower), getattr(other, tower)
        if first is not None:
            pairs = list(zip(_choices(first), _choices(second), strict=True))
            same = sum(len({*own} & {*their}) for own, their in pairs)
            shares[tower] = same / sum(len(own) for own, _ in pairs)
    return shares


def _choices(part: Any) -> Iterator[tuple[int, ...]]:  # noqa: ANN401
    """Yield the indices of every choice of a tower's plan, in a fixed order."""
    if is_dataclass(part):
        for each in fields(part):
            if each.name in CHOSEN:
                yield from _choices(getattr(part, each.name))
    elif part and isinstance(part[0], int):
        yield part
    else:
        for each in part:
            yield from _choices(each)
