"""Check the bytes of a search graph, because usearch trusts them when it searches.

Layout of usearch 2: the sizes of the vectors, then the vectors ``[nodes, bytes]``; a header of 64
bytes; five numbers of the graph; the level of each node; the nodes, each with its neighbours on
level 0 and then on each level up to its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"usearch"
OLDEST_MINOR = 10  # earlier versions number the kinds differently
COSINE = b"c"
SCALARS = {"int8": 23, "float16": 12}  # usearch's numbers for them
KEY_64, SLOT_32 = 14, 15
NODE_BYTES = 14  # of a node without neighbours
_SIZES = np.dtype([("nodes", "<u4"), ("vector_bytes", "<u4")])
_HEAD = np.dtype(
    [
        ("magic", "S7"), ("version", "<u2", (3,)), ("metric", "S1"), ("scalar", "u1"),
        ("key", "u1"), ("slot", "u1"), ("present", "<u8"), ("deleted", "<u8"),
        ("dimensions", "<u8"), ("multi", "u1"), ("rest", "u1", (22,)),
    ]
)  # fmt: skip
_GRAPH = np.dtype(
    [(name, "<u8") for name in ("nodes", "connectivity", "base_connectivity", "level", "entry")]
)
_MOST_NEIGHBOURS = 1024
_NODES = 1 << 16  # checked at a time, to bound memory


def node_count(content: npt.NDArray[np.uint8]) -> int:
    """Return the number of nodes; raise ValueError if the bytes cannot be a graph."""
    sizes = _read(content, 0, _SIZES)
    nodes = int(sizes["nodes"])
    if nodes < 1 or nodes * (int(sizes["vector_bytes"]) + NODE_BYTES) > len(content):
        raise ValueError("its graph is cut off")
    return nodes


def check_layout(content: npt.NDArray[np.uint8], dimensions: int, dtype: np.dtype[Any]) -> None:
    """Raise ValueError unless vectors are ``[nodes, dimensions]`` and all links lead to nodes."""
    nodes = node_count(content)
    vector_bytes = int(_read(content, 0, _SIZES)["vector_bytes"])
    if vector_bytes != dimensions * dtype.itemsize:
        raise ValueError("the vectors of its graph are of another size")
    start = _SIZES.itemsize + nodes * vector_bytes
    head = _read(content, start, _HEAD)
    kinds = COSINE, SCALARS[dtype.name], KEY_64, SLOT_32, dimensions
    major, minor = head["version"][:2]
    if head["magic"] != MAGIC or major != 2 or minor < OLDEST_MINOR:
        raise ValueError("its graph is of another version of usearch")
    if tuple(head[["metric", "scalar", "key", "slot", "dimensions"]].tolist()) != kinds:
        raise ValueError("its graph is of another kind")
    start += _HEAD.itemsize
    graph = _read(content, start, _GRAPH)
    start += _GRAPH.itemsize
    most, most_base = int(graph["connectivity"]), int(graph["base_connectivity"])
    if graph["nodes"] != nodes or not 1 < most <= most_base <= _MOST_NEIGHBOURS:
        raise ValueError("the numbers of its graph do not match")
    end = start + 2 * nodes
    levels = np.frombuffer(content[start:end], "<i2")
    entry = int(graph["entry"])
    if len(levels) < nodes or levels.min() < 0 or entry >= nodes or levels[entry] != graph["level"]:
        raise ValueError("the levels of its graph do not match")
    _check_nodes(content[end:], levels, most, most_base)


def _check_nodes(
    tape: npt.NDArray[np.uint8], levels: npt.NDArray[np.int16], most: int, most_base: int
) -> None:
    links = np.dtype([("count", "<u4"), ("slots", "<u4", (most,))])
    node = np.dtype(
        [("key", "<u8"), ("level", "<i2"), ("count", "<u4"), ("slots", "<u4", (most_base,))]
    )
    start = 0
    for first in range(0, len(levels), _NODES):
        part = levels[first : first + _NODES]
        ends = start + np.cumsum(node.itemsize + part.astype(np.int64) * links.itemsize)
        starts = np.concatenate([[start], ends[:-1]])
        start = int(ends[-1])
        if start > len(tape):
            raise ValueError("its graph is cut off")
        lowest = _at(tape, node, starts)
        _check_links(lowest, 0, levels)
        if (lowest["level"] != part).any():
            raise ValueError("the levels of its graph do not match")
        for level in range(1, int(part.max()) + 1):
            upper = starts[part >= level] + node.itemsize + (level - 1) * links.itemsize
            _check_links(_at(tape, links, upper), level, levels)
    if start != len(tape):
        raise ValueError("its graph has bytes that belong to no node")


def _check_links(nodes: npt.NDArray[Any], level: int, levels: npt.NDArray[np.int16]) -> None:
    counts, slots = nodes["count"], nodes["slots"]
    unused = np.arange(slots.shape[1]) >= counts[:, None]
    inside = slots < len(levels)
    if counts.max(initial=0) > slots.shape[1] or not (inside | unused).all():
        raise ValueError("its graph has links to no node")
    if level and not ((levels[np.where(inside, slots, 0)] >= level) | unused).all():
        raise ValueError("its graph has links to nodes of a lower level")


def _read(content: npt.NDArray[np.uint8], start: int, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401
    if start + dtype.itemsize > len(content):
        raise ValueError("its graph is cut off")
    return np.frombuffer(content[start : start + dtype.itemsize], dtype)[0]


def _at(
    tape: npt.NDArray[np.uint8], dtype: np.dtype[Any], starts: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    """Return copies of the records that begin at these bytes."""
    windows = np.ndarray(
        (max(0, len(tape) - dtype.itemsize + 1),), dtype, buffer=tape, strides=(1,)
    )
    return np.asarray(windows[starts])
