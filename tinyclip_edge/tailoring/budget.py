"""Which shapes fit into megabytes and milliseconds: predicted, then measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.tailoring.shapes import ImageShape, TeacherTower, maximal, spread

SLACK = 1.03  # by which a prediction may exceed the budget and still be measured
TRIES = 3  # maximum number of shapes measured per candidate


@dataclass(frozen=True, slots=True)
class Budget:
    """What a device can afford."""

    mb: float  # 1e6 bytes, of the files that it opens
    ms: float  # for one picture, decoded and resized, on one thread


@dataclass(frozen=True, slots=True)
class Cost:
    """What a shape costs."""

    mb: float
    ms: float

    def ratio(self, budget: Budget) -> float:
        """Return the larger of the two shares of the budget; up to 1, the shape fits."""
        return max(self.mb / budget.mb, self.ms / budget.ms)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Bytes by parameters and milliseconds by multiply-accumulates: a line through two shapes."""

    tower: TeacherTower
    bytes_line: tuple[float, float]  # offset and slope
    ms_line: tuple[float, float]

    @classmethod
    def through(cls, tower: TeacherTower, anchors: Mapping[ImageShape, Cost]) -> CostModel:
        """Return the model that is exact for the smallest and the largest measured shape."""
        return cls(
            tower,
            _line([(tower.parameters(shape), cost.mb) for shape, cost in anchors.items()]),
            _line([(tower.macs(shape), cost.ms) for shape, cost in anchors.items()]),
        )

    def cost(self, shape: ImageShape) -> Cost:
        """Return the predicted cost of a shape."""
        (mb, mb_each), (ms, ms_each) = self.bytes_line, self.ms_line
        return Cost(
            mb + mb_each * self.tower.parameters(shape), ms + ms_each * self.tower.macs(shape)
        )


def fitting(
    model: CostModel,
    measure: Callable[[ImageShape], Cost],
    budget: Budget,
    count: int,
) -> dict[ImageShape, Cost]:
    """Return up to ``count`` shapes inside the budget, with their measured costs.

    Of the shapes that are predicted to fit, the largest are measured first: those that no other
    shape covers, spread from deep to wide. If too few of them fit, smaller shapes follow. A shape
    that covers one outside the budget is outside, too.
    """
    left = [shape for shape in model.tower.shapes() if model.cost(shape).ratio(budget) <= SLACK]
    inside: dict[ImageShape, Cost] = {}
    tries = TRIES * count
    while left and len(inside) < count and tries > 0:
        for shape in spread(maximal(left), min(count - len(inside), tries)):
            if shape not in left:  # it covers one that has just proved to be outside
                continue
            tries -= 1
            left.remove(shape)
            cost = measure(shape)
            if cost.ratio(budget) <= 1:
                inside[shape] = cost
            else:
                left = [other for other in left if not other.covers(shape)]
    return inside


def check_reachable(smallest: ImageShape, cost: Cost, budget: Budget, teacher: str) -> None:
    """Raise ConfigError, with the nearest reachable budget, if the smallest shape does not fit."""
    if cost.ratio(budget) <= 1:
        return
    options = " and ".join(
        f"{option} {_rounded_up(needed)}"
        for option, needed, there in (
            ("--max-mb", cost.mb, budget.mb),
            ("--max-ms", cost.ms, budget.ms),
        )
        if needed > there
    )
    raise ConfigError(
        f"no student of {teacher} fits into {budget.mb:g} MB and {budget.ms:g} ms: the smallest "
        f"({smallest}) takes {cost.mb:.2f} MB and {cost.ms:.2f} ms here; use {options}, or a "
        "smaller teacher"
    )


def _rounded_up(value: float) -> str:
    """Return the value rounded up to two decimals."""
    return f"{-(-value // 0.01) * 0.01:.2f}"


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return offset and slope of the line through the first and last of the sorted points."""
    (x, y), (x_last, y_last) = min(points), max(points)
    slope = max(0.0, (y_last - y) / (x_last - x)) if x_last > x else 0.0
    return y - slope * x, slope
