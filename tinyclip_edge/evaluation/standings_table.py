"""The tables of models ranked by many evaluations, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from tinyclip_edge.evaluation.rank_aggregation import KEMENY_MODELS
from tinyclip_edge.evaluation.tables import with_error
from tinyclip_edge.notebook import report_table
from tinyclip_edge.report.standings import set_letter
from tinyclip_edge.units import counted

if TYPE_CHECKING:
    from rich.table import Table

    from tinyclip_edge.evaluation.standings import RankedModel, RankedSet, Standings

SETS_IN_TABLE = 3  # columns of scores that fit into 80 characters
_METHODS = {
    "kemeny": "place: in the order that contradicts the sets least (Kemeny)",
    "borda": f"place: by mean rank (Borda), because there are more than {KEMENY_MODELS} models",
}


def standings_tables(standings: Standings) -> list[Table]:
    """Return the places with the scores, then the certainty of each pair of up to 8 models."""
    labels = [set_letter(place) for place in range(len(standings.sets))]
    starts = range(0, len(labels), SETS_IN_TABLE)
    tables = [_scores(standings, labels, start) for start in starts]
    if 1 < len(standings.models) <= KEMENY_MODELS:
        tables.append(_pairs(standings))
    return tables


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ``1, 3-5``; a dash if there are none."""
    if not numbers:
        return "–"
    starts = [numbers[0], *(b for a, b in pairwise(numbers) if b != a + 1)]
    ends = [*(a for a, b in pairwise(numbers) if b != a + 1), numbers[-1]]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _scores(standings: Standings, labels: Sequence[str], start: int) -> Table:
    part = slice(start, start + SETS_IN_TABLE)
    is_last = part.stop >= len(labels)
    table = report_table(
        "",
        ["place", "95 %\nplaces", "surely\nbefore", "mean\nrank", *labels[part]],
        _caption(standings, labels) if is_last else (),
    )
    numbers = {model.name: number for number, model in enumerate(standings.models, 1)}
    for number, model in enumerate(standings.models, 1):
        worse = sorted(
            numbers[each.worse]
            for each in standings.differences
            if each.certain and each.better == model.name
        )
        table.add_row(
            f"{number} {model.name}",
            str(model.place),
            _places(model),
            ranges(worse),
            f"{model.mean_rank:.2f}",
            *(with_error(score.value, score.stderr) for score in model.scores[part]),
        )
    return table


def _pairs(standings: Standings) -> Table:
    """Return the percentage of resamples in which each model is before each other one."""
    names = [model.name for model in standings.models]
    shares = {(each.better, each.worse): each.share for each in standings.differences}
    shares |= {(worse, better): 1 - share for (better, worse), share in shares.items()}
    table = report_table(
        "before the model of the column, % of the resamples",
        [str(number) for number in range(1, len(names) + 1)],
        ["97.5 or more: certain"],
    )
    for number, row in enumerate(names, 1):
        cells = ("" if row == column else f"{100 * shares[row, column]:.1f}" for column in names)
        table.add_row(f"{number} {row}", *cells)
    return table


def _caption(standings: Standings, labels: Sequence[str]) -> list[str]:
    several = (
        [f"{standings.best_orders:,} orders are equally good; places are their mean"]
        if standings.best_orders > 1
        else []
    )
    return [
        *(
            f"{label}: {_described(each)}"
            for label, each in zip(labels, standings.sets, strict=True)
        ),
        f"{_METHODS[standings.method]}; mean rank: over the sets",
        *several,
        f"95 % places, ±: {standings.resamples:,} paired bootstrap resamples of the pictures",
        *(f"left out: {each}" for each in standings.left_out),
        *standings.notes,
    ]


def _described(each: RankedSet) -> str:
    metric = "zero-shot top-1" if each.task == "zero-shot" else "recall@1, mean of both directions"
    return f"{each.name}: {counted(each.pictures, 'picture')}, {metric}"


def _places(model: RankedModel) -> str:
    return str(model.first) if model.first == model.last else f"{model.first}-{model.last}"
