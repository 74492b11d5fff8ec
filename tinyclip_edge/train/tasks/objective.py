"""The training objective of a configuration."""

from __future__ import annotations

from pkgutil import resolve_name

from tinyclip_edge.config import LossConfig
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.losses import LossTerm, Objective
from tinyclip_edge.losses.matryoshka import MatryoshkaTerm


def make_objective(loss: LossConfig, student_width: int, teacher_width: int) -> Objective:
    """Return the terms that have a weight, for embeddings of these widths.

    Raises ConfigError for a prefix that is not shorter than the student's embedding.
    """
    prefixes = loss.matryoshka
    if prefixes and prefixes[-1] >= student_width:
        raise ConfigError(
            f"loss.matryoshka has {prefixes[-1]}, and the student's embeddings have "
            f"{student_width} dimensions, which are always included; give smaller lengths"
        )
    terms: dict[str, tuple[float, LossTerm]] = {}
    for name, entry in loss.active.items():
        make = resolve_name(entry.implementation)
        term: LossTerm = make(student_width, teacher_width, **loss.settings(name))
        if prefixes and entry.uses_prefixes:
            term = MatryoshkaTerm(term, prefixes)
        terms[name] = (loss.weight(name), term)
    return Objective(terms)
