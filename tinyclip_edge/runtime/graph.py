"""Approximate search: a graph (HNSW) of an index's pictures, built and searched by usearch.

A graph never changes. Pictures added later have no node and are searched exactly; nodes of removed
pictures stay and are skipped.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, MissingExtraError, TinyClipWarning, did_you_mean
from tinyclip_edge.limits import is_count
from tinyclip_edge.runtime.graph_layout import check_layout, node_count
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import Nearest, int8_codes, nearest_rows

if TYPE_CHECKING:
    from usearch.index import Index

VERSION = 1
EXPANSIONS = (64, 128, 256, 512, 1024, 2048)  # tried in turn; usearch searches 64 by default
CONNECTIVITY = 16  # links of a node, twice as many on the lowest level
EXPANSION_ADD = 128  # candidates for the links of a new node
REBUILT_BELOW = 0.75  # share of nodes that are still pictures, below which a graph is rebuilt
SMALLEST_SHARE = 0.05  # the same share, below which exact search is faster
_BLOCK = 1 << 14  # pictures added between two reports of progress

GraphType: TypeAlias = Literal["int8", "float16"]
Report: TypeAlias = Callable[[int, "int | None"], None]


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """Settings of a graph, and its measured recall of an exact search's ``k`` pictures."""

    dtype: GraphType
    expansion: int  # pictures that a search compares exactly at the end
    recall: float  # mean share of the k nearest, 0 to 1
    k: int
    queries: int  # number of them in the measurement
    version: int = VERSION

    def check(self) -> None:
        """Raise ValueError for impossible values."""
        if not is_count(self.version) or self.version > VERSION:
            raise ValueError("its graph is of a newer version; upgrade tinyclip-edge")
        counts = (self.expansion, self.k, self.queries)
        if (
            self.dtype not in get_args(GraphType)
            or not all(is_count(count, minimum=0) and count < 1 << 20 for count in counts)
            or type(self.recall) not in (int, float)
            or not 0 <= self.recall <= 1
        ):
            raise ValueError("the settings of its graph are not valid")


class Graph:
    """The bytes of a graph as usearch writes them, and which of its nodes are rows of an index.

    ``labels``: increasing uint32, the nodes of rows 0, 1, …; rows after them have no node.
    """

    def __init__(
        self, content: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint32], facts: GraphFacts
    ) -> None:
        """Raise ValueError for labels that are not nodes."""
        self.content, self.labels, self.facts = content, labels, facts
        self.nodes = node_count(content)
        increasing = labels.dtype == np.uint32 and bool((labels[1:] > labels[:-1]).all())
        if labels.ndim != 1 or not len(labels) or not increasing or labels[-1] >= self.nodes:
            raise ValueError("the labels of its graph are not nodes of it")
        self._lock = threading.Lock()
        self._index: Index | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Graph, (self.content, self.labels, self.facts)

    @property
    def share(self) -> float:
        """Share of the nodes that are still pictures."""
        return len(self.labels) / self.nodes

    def select(self, rows: slice | npt.NDArray[np.intp], count: int) -> Graph | None:
        """Return the graph of some of ``count`` rows; None if reordered, or if none has a node."""
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(count)
            if (start, stop) == (0, count):
                return self
            labels = self.labels[start:stop]
            return self._like(labels) if len(labels) else None
        numbers = np.arange(count)[rows]
        if (numbers[1:] <= numbers[:-1]).any():
            return None
        labels = self.labels[numbers[: np.searchsorted(numbers, len(self.labels))]]
        return self._like(labels) if len(labels) else None

    def with_facts(self, facts: GraphFacts) -> Graph:
        """Return the same graph with other settings."""
        graph = self._like(self.labels)
        graph.facts = facts
        return graph

    def nearest(
        self, queries: Features, features: npt.NDArray[Any], scales: Features | None, k: int
    ) -> list[Nearest]:
        """Return about the ``k`` rows nearest to each of unit-norm ``[Q, D]``; scores are exact.

        A query is searched exactly if most nodes near it are removed pictures; without usearch all
        are, with a warning. Raise DataError for a broken graph.
        """
        if self.share < SMALLEST_SHARE:
            return nearest_rows(queries, features, scales, k)
        try:
            candidates = self._candidates(queries, features.shape[1], k)
        except MissingExtraError as error:
            warnings.warn(f"{error}; this search is exact", TinyClipWarning, stacklevel=4)
            return nearest_rows(queries, features, scales, k)
        size = len(self.labels)
        after = nearest_rows(queries, features[size:], None if scales is None else scales[size:], k)
        results = []
        for number, rows in enumerate(candidates):
            query = queries[number : number + 1]
            if len(rows) < min(size, self._enough(k)) // 2:
                results += nearest_rows(query, features, scales, k)
                continue
            part = nearest_rows(
                query, features[rows], None if scales is None else scales[rows], k
            )[0]  # fmt: skip
            results.append(
                Nearest(
                    np.concatenate([rows[part.rows], after[number].rows + size]),
                    np.concatenate([part.scores, after[number].scores]),
                ).best(k)
            )
        return results

    def extended(self, features: npt.NDArray[Any], threads: int, report: Report) -> Graph:
        """Return a graph in which all rows have a node; features are those of ``nearest``."""
        index = _empty(features.shape[1], self.facts.dtype)
        self._read(index.load, features.shape[1])
        size = len(self.labels)
        _add(index, features[size:], self.facts.dtype, self.nodes, threads, report)
        added = np.arange(self.nodes, self.nodes + len(features) - size, dtype=np.uint32)
        return Graph(_content(index), np.concatenate([self.labels, added]), self.facts)

    def _enough(self, k: int) -> int:
        return max(self.facts.expansion, 2 * k)

    def _candidates(self, queries: Features, dimensions: int, k: int) -> list[npt.NDArray[np.intp]]:
        """Return rows near to each query in stored order."""
        count = min(self.nodes, math.ceil(self._enough(k) / self.share))
        vectors = _encoded(queries, self.facts.dtype)
        with self._lock:  # usearch numbers its threads, and two searches would use the same numbers
            matches = self._opened(dimensions).search(
                vectors, count, threads=1 if len(vectors) == 1 else 0
            )
        key_rows = [matches.keys] if len(vectors) == 1 else [
            keys[:number] for keys, number in zip(matches.keys, matches.counts, strict=True)
        ]  # fmt: skip
        return [self._rows(keys.astype(np.uint32)) for keys in key_rows]

    def _rows(self, nodes: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
        rows = np.searchsorted(self.labels, nodes)
        rows = rows[self.labels[np.minimum(rows, len(self.labels) - 1)] == nodes]
        return np.unique(rows)

    def _opened(self, dimensions: int) -> Index:
        if self._index is None:
            index = _empty(dimensions, self.facts.dtype)
            self._read(index.view, dimensions)
            self._index = index
        return self._index

    def _read(self, read: Callable[[memoryview], None], dimensions: int) -> None:
        """Check the bytes, then let usearch read them."""
        try:
            check_layout(self.content, dimensions, np.dtype(self.facts.dtype))
            read(self.content.data)
        except (ValueError, RuntimeError) as error:
            raise DataError(
                f"index: {error}; approximate() rebuilds the graph, load(…, exact=True) ignores it"
            ) from error

    def _like(self, labels: npt.NDArray[np.uint32]) -> Graph:
        graph = Graph(self.content, labels, self.facts)
        graph._lock, graph._index = self._lock, self._index
        return graph


def built(features: npt.NDArray[Any], dtype: GraphType, threads: int, report: Report) -> Graph:
    """Return a graph of ``[N, D]`` in float or int8, whose recall is not known yet."""
    if dtype not in get_args(GraphType):
        raise DataError(f"dtype {dtype!r}{did_you_mean(dtype, get_args(GraphType))}")
    index = _empty(features.shape[1], dtype)
    _add(index, features, dtype, 0, threads, report)
    labels = np.arange(len(features), dtype=np.uint32)
    return Graph(_content(index), labels, GraphFacts(dtype, EXPANSIONS[0], 0.0, 0, 0))


def require_usearch() -> None:
    """Raise MissingExtraError without usearch."""
    try:
        import_module("usearch.index")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "approximate search needs usearch; run: pip install 'tinyclip-edge[search]'"
        ) from error


def _empty(dimensions: int, dtype: GraphType) -> Index:
    require_usearch()
    from usearch.index import Index

    return Index(
        ndim=dimensions, metric="cos", dtype={"int8": "i8", "float16": "f16"}[dtype],
        connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD, enable_key_lookups=False,
    )  # fmt: skip


def _add(
    index: Index, features: npt.NDArray[Any], dtype: GraphType, first: int, threads: int,
    report: Report,
) -> None:  # fmt: skip
    for start in range(0, len(features), _BLOCK):
        vectors = _encoded(features[start : start + _BLOCK], dtype)
        # An index's own codes are not copied: the index outlives this builder.
        copy = not (vectors.base is not None and np.may_share_memory(vectors, features))
        labels = np.arange(first + start, first + start + len(vectors), dtype=np.uint64)
        index.add(labels, vectors, copy=copy, threads=threads)
        report(start + len(vectors), len(features))


def _content(index: Index) -> npt.NDArray[np.uint8]:
    return np.frombuffer(index.save(), np.uint8)


def _encoded(vectors: npt.NDArray[Any], dtype: GraphType) -> npt.NDArray[Any]:
    """Return vectors in the graph's type; cosines do not depend on their scale."""
    if dtype == "float16" or vectors.dtype == np.int8:
        return np.ascontiguousarray(vectors, dtype=dtype)
    return int8_codes(np.asarray(vectors, np.float32))[0]
