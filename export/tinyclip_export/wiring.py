"""Who writes and who reads the values of an ONNX graph, and how its nodes are exchanged."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

Onnx: TypeAlias = Any  # a message of onnx, which has no types


def producers(graph: Onnx) -> dict[str, Onnx]:
    """Return the node that writes each value."""
    return {name: node for node in graph.node for name in node.output}


def readers(graph: Onnx) -> defaultdict[str, list[Onnx]]:
    """Return the nodes that read each value, once for each input."""
    found = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def known_values(model: Onnx) -> list[Onnx]:
    """Return what shape inference says of each inner value; files hold none of it."""
    from onnx import shape_inference

    return list(shape_inference.infer_shapes(model).graph.value_info)


def replace_nodes(graph: Onnx, nodes: list[Onnx]) -> None:
    """Give the graph these nodes, in this order."""
    del graph.node[:]
    graph.node.extend(nodes)


def drop_unread(graph: Onnx) -> None:
    """Leave out the constants that no node reads any more."""
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
