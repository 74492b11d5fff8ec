"""Who writes and reads the values of an ONNX graph, and how its parts are exchanged."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

import numpy as np

Onnx: TypeAlias = Any  # a message of onnx, which has no types


def producers(graph: Onnx) -> dict[str, Onnx]:
    """Return the node that writes each value."""
    return {name: node for node in graph.node for name in node.output}


def consumers(graph: Onnx) -> defaultdict[str, list[Onnx]]:
    """Return the nodes that read each value, once for each input."""
    nodes_by_input = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            nodes_by_input[name].append(node)
    return nodes_by_input


def sole_consumer(consumers_by_value: dict[str, list[Onnx]], name: str, kind: str) -> Onnx | None:
    """Return the node of this operator that alone reads a value."""
    nodes = consumers_by_value[name]
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type == kind else None


def constants(graph: Onnx) -> dict[str, Onnx]:
    """Return the graph's constants by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def add_constant(graph: Onnx, name: str, value: np.ndarray) -> Onnx:
    """Add a constant and return it."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return graph.initializer[-1]


def following_bias(
    product: Onnx, constants_by_name: dict[str, Onnx], consumers_by_value: dict[str, list[Onnx]]
) -> tuple[Onnx, int] | None:
    """Return what adds a bias ``[N]`` to a product with a weight ``[W, N]``, and its index there.

    None where the node is no such product or something else reads it. `constants_by_name` are the constants.
    """
    weight = constants_by_name.get(product.input[1]) if product.op_type == "MatMul" else None
    if weight is None or len(weight.dims) != 2:
        return None
    add = sole_consumer(consumers_by_value, product.output[0], "Add")
    if add is None:
        return None
    bias_inputs = [n for n, name in enumerate(add.input) if name in constants_by_name]
    if len(bias_inputs) != 1 or list(constants_by_name[add.input[bias_inputs[0]]].dims) != [
        weight.dims[1]
    ]:
        return None
    return add, bias_inputs[0]


def inferred_values(model: Onnx) -> list[Onnx]:
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


def remove_unused_constants(graph: Onnx) -> None:
    """Leave out the constants that no node reads any more."""
    read_values = {name for node in graph.node for name in node.input}
    used = [tensor for tensor in graph.initializer if tensor.name in read_values]
    del graph.initializer[:]
    graph.initializer.extend(used)
