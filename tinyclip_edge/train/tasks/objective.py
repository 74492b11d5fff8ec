"""The objective that a configuration describes."""

from __future__ import annotations

from pkgutil import resolve_name

from tinyclip_edge.config import LossConfig
from tinyclip_edge.losses import Objective


def make_objective(loss: LossConfig, student_width: int, teacher_width: int) -> Objective:
    """Return the terms that have a weight, for embeddings of these widths."""
    return Objective(
        {
            name: (
                loss.weight(name),
                resolve_name(entry.implementation)(
                    student_width, teacher_width, **loss.settings(name)
                ),
            )
            for name, entry in loss.active.items()
        }
    )
