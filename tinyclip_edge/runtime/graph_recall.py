"""Build an index's search graph, and set from measured recall how many candidates it compares."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, TinyClipWarning
from tinyclip_edge.runtime.graph import EXPANSIONS, REBUILT_BELOW, Graph, GraphType, built
from tinyclip_edge.runtime.progress import reported
from tinyclip_edge.runtime.protocol import Features, Progress
from tinyclip_edge.runtime.vectors import Nearest, nearest_rows, unit

if TYPE_CHECKING:
    from tinyclip_edge.runtime.index import ImageIndex

SAMPLE = 200  # pictures of the index that serve as queries if none are passed
_ROUNDING = 1e-6  # of a cosine


def graph_of(
    index: ImageIndex,
    queries: Features | None,
    *,
    recall: float,
    k: int,
    dtype: GraphType,
    threads: int | None,
    progress: Progress,
) -> Graph:
    """Return a graph of all pictures; see ``ImageIndex.approximate``."""
    if not 0 < recall <= 1 or k < 1:
        raise DataError(
            f"approximate: recall must be above 0 and at most 1 ({recall:g}), and k 1 or more ({k})"
        )
    graph, features = index.graph, index.features
    with reported(progress, "graph") as report:
        if graph is None or graph.facts.dtype != dtype or graph.share < REBUILT_BELOW:
            graph = built(features, dtype, threads or 0, report)
        elif len(graph.labels) < len(features):
            graph = graph.extended(features, threads or 0, report)
    if queries is not None:
        return _with_recall(graph, index, queries, np.full(len(queries), -1), recall, k)
    rows = np.unique(np.linspace(0, len(features) - 1, SAMPLE).astype(np.intp))
    queries = unit(np.asarray(features[rows], np.float32))
    return _with_recall(graph, index, queries, rows, recall, k)


def _with_recall(
    graph: Graph,
    index: ImageIndex,
    queries: Features,
    rows: npt.NDArray[np.intp],
    goal: float,
    k: int,
) -> Graph:
    """Return the graph with the smallest expansion whose recall reaches ``goal``.

    ``rows``: each query's own row, which does not count as its result; -1 for none.
    """
    features, scales = index.features, index.scales
    exact = _without(nearest_rows(queries, features, scales, k + 1), rows, k)
    for expansion in EXPANSIONS:
        facts = replace(graph.facts, expansion=expansion, k=k, queries=len(queries))
        tried = graph.with_facts(facts)
        near = _without(tried.nearest(queries, features, scales, k + 1), rows, k)
        value = float(np.mean([_share(*pair) for pair in zip(exact, near, strict=True)]))
        tried = tried.with_facts(replace(facts, recall=value))
        if value >= goal:
            return tried
    warnings.warn(
        f"approximate: recall@{k} is {value:.3f}, below {goal:g}, even with {expansion:,} "
        'candidates a query; try dtype="float16", or search exactly',
        TinyClipWarning,
        stacklevel=4,
    )
    return tried


def _without(results: list[Nearest], rows: npt.NDArray[np.intp], k: int) -> list[Nearest]:
    """Return the results without each query's own picture."""
    others = [result.rows != row for result, row in zip(results, rows, strict=True)]
    return [
        Nearest(result.rows[keep][:k], result.scores[keep][:k])
        for result, keep in zip(results, others, strict=True)
    ]


def _share(exact: Nearest, near: Nearest) -> float:
    """Return the share of results that are as near as the exact ones; 1 where there are none."""
    if not len(exact.scores):
        return 1.0
    return float((near.scores >= exact.scores[-1] - _ROUNDING).sum()) / len(exact.scores)
