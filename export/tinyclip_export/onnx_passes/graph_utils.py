"""Who writes and reads the values of an ONNX graph, and how its parts are exchanged."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

import numpy as np

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


def only_reader(reading: dict[str, list[Onnx]], name: str, kind: str) -> Onnx | None:
    """Return the node of this operator that alone reads a value."""
    found = reading[name]
    return found[0] if len(found) == 1 and found[0].op_type == kind else None


def constants(graph: Onnx) -> dict[str, Onnx]:
    """Return the graph's constants by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def add_constant(graph: Onnx, name: str, value: np.ndarray) -> Onnx:
    """Add a constant and return it."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return graph.initializer[-1]


def bias_behind(
    product: Onnx, known: dict[str, Onnx], reading: dict[str, list[Onnx]]
) -> tuple[Onnx, int] | None:
    """Return what adds a bias ``[N]`` to a product with a weight ``[W, N]``, and its index there.

    None where the node is no such product or something else reads it. `known` are the constants.
    """
    weight = known.get(product.input[1]) if product.op_type == "MatMul" else None
    if weight is None or len(weight.dims) != 2:
        return None
    added = only_reader(reading, product.output[0], "Add")
    if added is None:
        return None
    sides = [n for n, name in enumerate(added.input) if name in known]
    if len(sides) != 1 or list(known[added.input[sides[0]]].dims) != [weight.dims[1]]:
        return None
    return added, sides[0]


def known_values(model: Onnx) -> list[Onnx]:
    """Return what shape inference says of each inner value; files hold none of it."""
    from onnx import shape_inference

    return list(shape_inference.infer_shapes(model).graph.value_info)


def replace_nodes(graph: Onnx, nodes: list[Onnx]) -> None:
    """Give the graph these nodes, in this order."""
    del graph.node[:]
    graph.node.extend(nodes)


def raise_opset(model: Onnx, version: int) -> None:
    """Let a model ask for at least this opset of ONNX's own operators."""
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, version)


def drop_unread(graph: Onnx) -> None:
    """Leave out the constants that no node reads any more."""
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
