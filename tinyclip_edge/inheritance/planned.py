"""A teacher's weights, with the plan of what a student takes from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from tinyclip_edge.inheritance.mapping import WeightMapping
from tinyclip_edge.inheritance.plan_types import InheritancePlan
from tinyclip_edge.inheritance.report import InheritanceReport
from tinyclip_edge.inheritance.shape import ClipShape
from tinyclip_edge.inheritance.taken import InheritedUnits
from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.inheritance.uniform import inherit_uniform


@dataclass(frozen=True, slots=True)
class PlannedInheritance:
    """The weights that a student can inherit: selected by a plan, or learnt starting from it."""

    teacher_state: Mapping[str, Tensor]  # with as many positions as the student has
    plan: InheritancePlan
    teacher: ClipShape
    frozen: Collection[TowerName] = ()
    notes: tuple[str, ...] = ()

    def select(
        self, student_state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], InheritanceReport]:
        """Return the student's weights, selected from the teacher's, and the origin of each."""
        weights, report = inherit_uniform(
            self.teacher_state,
            student_state,
            self.plan,
            frozen=self.frozen,
            notes=(*self.notes, *self.plan.notes),
        )
        return weights, replace(report, taken=InheritedUnits.by(self.plan, self.teacher))

    def mapping(self, student_state: Mapping[str, Tensor]) -> WeightMapping:
        """Return a mapping to the student's weights that starts as the selection.

        Raises InheritanceError for towers that cannot be mapped.
        """
        return WeightMapping(self.teacher_state, student_state, self.plan)
