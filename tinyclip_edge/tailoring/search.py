"""The candidates of a tailoring: shapes inside the budget, measured here, and recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import DataError
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.tailoring.budget import Budget, Cost, CostModel, check_reachable, fitting
from tinyclip_edge.tailoring.measure import FLOAT32, meter, teacher_cost, text_tower_cost
from tinyclip_edge.tailoring.request import TOWERS, TailorRequest
from tinyclip_edge.tailoring.shapes import ImageShape, TeacherTower
from tinyclip_edge.units import size

COPIES = 7  # of a student's weights: two checkpoints with AdamW's moments, student, best student


@dataclass(frozen=True, slots=True)
class Candidates:
    """Shapes with their costs on this machine, the largest first, and the teacher's cost."""

    costs: Mapping[ImageShape, Cost]
    teacher: Cost
    trims: bool  # whether the tokenizer can be trimmed to the texts

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        rows = [{"shape": asdict(shape), **asdict(cost)} for shape, cost in self.costs.items()]
        return {"candidates": rows, "teacher": asdict(self.teacher), "trims": self.trims}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Candidates:
        """Return the candidates that ``as_dict`` wrote."""
        costs = {
            ImageShape.from_dict(row["shape"]): Cost(row["mb"], row["ms"])
            for row in plain["candidates"]
        }
        return cls(costs, Cost(**plain["teacher"]), plain["trims"])


def find_candidates(
    request: TailorRequest,
    teacher: LoadedClip,
    tower: TeacherTower,
    say: Callable[[str], None],
) -> Candidates:
    """Measure shapes on this machine and return those inside the budget.

    Raises ConfigError, which names the nearest reachable budget, if there is none.
    """
    budget = Budget(request.max_mb, request.max_ms)
    say(f"shapes are measured on this machine, for {budget.mb:g} MB and {budget.ms:g} ms")
    text_mb, trims = text_tower_cost(teacher, request.prompts)
    beside = text_mb if request.form == TOWERS else None
    whole = teacher_cost(teacher)
    with meter(teacher, tower, len(request.labels), beside) as scales:

        def exported(shape: ImageShape) -> Cost:
            cost = scales.cost(shape)
            say(f"{shape.name}: {cost.mb:.2f} MB, {cost.ms:.2f} ms")
            return cost

        ends = {shape: exported(shape) for shape in tower.smallest()}
        smallest = min(ends, key=lambda shape: ends[shape].ratio(budget))
        check_reachable(smallest, ends[smallest], budget, request.teacher)
        anchors = {tower.shape: exported(tower.shape), **ends}
        model = CostModel.through(tower, anchors)

        def measured(shape: ImageShape) -> Cost:
            return anchors[shape] if shape in anchors else exported(shape)

        costs = fitting(model, measured, budget, request.candidates)
        costs = costs or {smallest: ends[smallest]}
    costs = dict(sorted(costs.items(), reverse=True))
    say(f"inside the budget: {', '.join(shape.name for shape in costs)}")
    return Candidates(costs, whole, trims)


def check_disk(
    candidates: Candidates, tower: TeacherTower, teacher: LoadedClip, folder: Path
) -> None:
    """Raise DataError if the disk has no room for the runs of all candidates."""
    from tinyclip_edge.models import count_parameters

    count = count_parameters(teacher.model)
    text = count.total - tower.parameters(tower.shape)
    weights = sum(tower.parameters(shape) + text for shape in candidates.costs)
    needed = COPIES * FLOAT32 * weights
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"the runs of {len(candidates.costs):,} candidates need about {size(needed)}, and the "
            f"disk of {folder} has {size(free)} left; free some space, choose a --work elsewhere, "
            "or fewer --candidates"
        )
