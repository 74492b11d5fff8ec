"""Models ranked by many evaluations: places, their uncertainty, and which differences are certain.

M models, S evaluation sets, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.evaluation.rank_aggregation import (
    KEMENY_MODELS,
    TIE,
    borda_shares,
    expected_places,
    kemeny_shares,
    mean_ranks,
    preferences_of,
)
from tinyclip_edge.evaluation.report import EvalRow
from tinyclip_edge.evaluation.resampling import PictureHits, Resampling, interval, resampled_scores
from tinyclip_edge.evaluation.standings_table import standings_tables
from tinyclip_edge.notebook import NotebookReport
from tinyclip_edge.report.standings import StandingsPicture
from tinyclip_edge.runtime.protocol import EmbedderSpec

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT = Resampling()
LEVEL = 0.95  # of intervals; a difference is certain if its interval excludes the reverse order

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """One model with its metrics, and the hits behind them, on each set."""

    name: str
    model: str
    spec: EmbedderSpec
    rows: tuple[EvalRow, ...]
    hits: tuple[PictureHits, ...]


@dataclass(frozen=True, slots=True)
class RankedSet:
    """An evaluation set; all of them count the same."""

    name: str
    task: str
    pictures: int
    queries: int


@dataclass(frozen=True, slots=True)
class Score:
    """A share of 1, or a difference of two, with its standard error and 95 % interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RankedModel:
    """One model, with a score and all metrics for each set."""

    name: str
    model: str
    spec: EmbedderSpec
    place: int  # tied models have the same
    first: int  # of the places in 95 % of the resamples
    last: int
    mean_rank: float  # over the sets; Borda's points per set are the number of models minus this
    shares: tuple[float, ...]  # of the resamples, by place
    scores: tuple[Score, ...]
    metrics: tuple[EvalRow, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two models by name; ``better`` comes first in the order."""

    better: str
    worse: str
    share: float  # of the resamples in which ``better`` comes first; ties count half
    certain: bool
    scores: tuple[Score, ...]  # better minus worse, on each set


@dataclass(frozen=True, slots=True)
class Standings(NotebookReport):
    """Models from the best to the worst, and how certain this order is.

    ``method`` is ``kemeny`` for few models, else ``borda``; ``best_orders`` is the number of orders
    that contradict the evaluations least (1 for Borda).
    """

    sets: tuple[RankedSet, ...]
    models: tuple[RankedModel, ...]
    differences: tuple[Difference, ...]
    method: str
    best_orders: int
    resamples: int
    seed: int
    left_out: tuple[str, ...] = ()  # models that could not be measured, with the reason
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        content = asdict(self)
        for model in content["models"]:
            model["metrics"] = [
                {key: value for key, value in row.items() if value is not None}
                for row in model["metrics"]
            ]
        return content

    def tables(self) -> list[Table]:
        """Return the scores with the places, and how certain each order of two models is."""
        return standings_tables(self)

    def picture(self) -> StandingsPicture:
        """Return the data that plots and reports show."""
        return StandingsPicture(
            models=tuple(model.name for model in self.models),
            sets=tuple(each.name for each in self.sets),
            places=tuple(model.place for model in self.models),
            scores=tuple(tuple(s.value for s in model.scores) for model in self.models),
            lows=tuple(tuple(s.low for s in model.scores) for model in self.models),
            highs=tuple(tuple(s.high for s in model.scores) for model in self.models),
            shares=tuple(model.shares for model in self.models),
            caption=self.summary(),
        )

    def summary(self) -> str:
        """Return how many orders of two models are certain, in one sentence."""
        pairs = len(self.differences)
        if not pairs:
            return "One model; there is nothing to compare it with."
        certain = sum(difference.certain for difference in self.differences)
        return f"Certain in {LEVEL:.0%} of the resamples: {certain} of {pairs} orders of two models"


def standings_of(
    measured: Sequence[ScoredModel],
    sets: Sequence[RankedSet],
    *,
    resampling: Resampling = DEFAULT,
    left_out: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Standings:
    """Rank one or more models by their scores on one or more sets."""
    by_set = [[model.hits[place] for model in measured] for place in range(len(sets))]
    scores = np.array([[hits.score for hits in models] for models in by_set])
    drawn = _drawn(by_set, resampling)
    shares, ranks, best_orders = _placed(scores[None])
    drawn_shares, _, _ = _placed(drawn)
    expected = expected_places(shares)[0]
    order = sorted(range(len(measured)), key=lambda m: (round(expected[m], 6), ranks[0, m], m))
    before = _before(expected_places(drawn_shares))
    models = tuple(
        RankedModel(
            measured[m].name,
            measured[m].model,
            measured[m].spec,
            1 + int((expected < expected[m] - TIE).sum()),
            *_place_interval(drawn_shares[:, m].mean(axis=0)),
            float(ranks[0, m]),
            tuple(drawn_shares[:, m].mean(axis=0).tolist()),
            _scores(scores[:, m], drawn[..., m]),
            measured[m].rows,
        )
        for m in order
    )
    differences = tuple(
        Difference(
            measured[a].name,
            measured[b].name,
            float(before[a, b]),
            bool(expected[a] < expected[b] - TIE and before[a, b] >= (1 + LEVEL) / 2),
            _scores(scores[:, a] - scores[:, b], drawn[..., a] - drawn[..., b]),
        )
        for index, a in enumerate(order)
        for b in order[index + 1 :]
    )
    return Standings(
        tuple(sets),
        models,
        differences,
        "kemeny" if len(measured) <= KEMENY_MODELS else "borda",
        int(best_orders[0]),
        resampling.resamples,
        resampling.seed,
        tuple(left_out),
        tuple(notes),
    )


def _drawn(by_set: Sequence[Sequence[PictureHits]], resampling: Resampling) -> Floats:
    """Return the scores of all resamples, ``[R, S, M]``; each set is resampled independently."""
    return np.stack(
        [
            resampled_scores(
                models,
                resamples=resampling.resamples,
                rng=np.random.default_rng([resampling.seed, place]),
            )
            for place, models in enumerate(by_set)
        ],
        axis=1,
    )


def _placed(scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Return shares of places, mean ranks and numbers of best orders of scores ``[R, S, M]``."""
    _, sets, models = scores.shape
    preferences = preferences_of(scores)
    ranks = mean_ranks(preferences, sets)
    if models <= KEMENY_MODELS:
        shares, orders = kemeny_shares(preferences)
        return shares, ranks, orders
    return borda_shares(ranks), ranks, np.ones(len(scores))


def _before(expected: Floats) -> Floats:
    """Return ``[M, M]``: the share of resamples ``[R, M]`` with the row before the column."""
    difference = expected[:, None, :] - expected[:, :, None]
    return np.asarray(((difference > TIE) + 0.5 * (np.abs(difference) <= TIE)).mean(axis=0))


def _place_interval(shares: Floats) -> tuple[int, int]:
    cumulative = shares.cumsum()
    low, high = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    first = int(np.argmax(cumulative > low - TIE))
    return 1 + first, 1 + int(np.argmax(cumulative >= high - TIE))


def _scores(values: Floats, drawn: Floats) -> tuple[Score, ...]:
    """Return the scores of values ``[S]`` with their resamples ``[R, S]``."""
    return tuple(
        Score(value, float(column.std()), *interval(column, LEVEL))
        for value, column in zip(values.tolist(), drawn.T, strict=True)
    )
