"""Look up producers, consumers and constants of an ONNX graph, and replace its parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Onnx: TypeAlias = Any  # a message of onnx, which has no types
MIN_CONVOLUTIONS = 4  # a patch embedding has one


def is_convolutional(path: Path) -> bool:
    """Whether an image tower consists mainly of convolutions, like a ResNet."""
    import onnx

    operators = [node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node]
    return (
        operators.count("Conv") > MIN_CONVOLUTIONS
        and operators.count("Conv") > operators.count("MatMul") / 2
    )


def producers(graph: Onnx) -> dict[str, Onnx]:
    """Return the node that produces each value."""
    return {name: node for node in graph.node for name in node.output}


def consumers(graph: Onnx) -> defaultdict[str, list[Onnx]]:
    """Return the nodes that consume each value, once per input."""
    nodes_by_input = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            nodes_by_input[name].append(node)
    return nodes_by_input


def sole_consumer(consumers_by_value: dict[str, list[Onnx]], name: str, kind: str) -> Onnx | None:
    """Return the only consumer of a value if it has this operator type."""
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


def unshare_weights(graph: Onnx, kinds: Collection[str]) -> None:
    """Give each node of these types a weight of its own, where several read the same constant.

    onnxruntime (1.32) cannot open a file in which nodes share an int8 weight when it computes in
    u8 x u8: it adds the converted weight once for each of them.
    """
    weights, used = constants(graph), set()
    for node in graph.node:
        if node.op_type not in kinds or node.input[1] not in weights:
            continue
        name = node.input[1]
        if name in used:
            graph.initializer.append(weights[name])
            node.input[1] = graph.initializer[-1].name = f"{name}_of_{node.name}"
        used.add(name)


def following_bias(
    product: Onnx, constants_by_name: dict[str, Onnx], consumers_by_value: dict[str, list[Onnx]]
) -> tuple[Onnx, int] | None:
    """Return the Add of a bias ``[N]`` after a MatMul with a weight ``[W, N]``, and its bias input.

    None for another node, or if the product has other consumers.
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


def inferred_shapes(model: Onnx) -> dict[str, list[int | None]]:
    """Return the sizes of each value whose rank is known by shape inference; None: dynamic."""
    graph = model.graph
    shapes: dict[str, list[int | None]] = {t.name: list(t.dims) for t in graph.initializer}
    for value in (*inferred_values(model), *graph.input):
        if value.type.tensor_type.HasField("shape"):
            sizes = value.type.tensor_type.shape.dim
            shapes[value.name] = [d.dim_value if d.HasField("dim_value") else None for d in sizes]
    return shapes


def inferred_values(model: Onnx) -> list[Onnx]:
    """Return types and shapes of intermediate values by shape inference; files have none."""
    from onnx import shape_inference

    return list(shape_inference.infer_shapes(model).graph.value_info)


def replace_nodes(graph: Onnx, nodes: list[Onnx]) -> None:
    """Replace all nodes of the graph by these, in this order."""
    del graph.node[:]
    graph.node.extend(nodes)


def raise_opset(model: Onnx, version: int) -> None:
    """Raise a model's opset of the default domain to at least this version."""
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, version)


def import_domain(model: Onnx, domain: str) -> None:
    """Import version 1 of another domain's operators, unless the model does already."""
    from onnx import helper

    if all(entry.domain != domain for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def remove_unused_constants(graph: Onnx) -> None:
    """Remove the constants that no node uses."""
    read_values = {name for node in graph.node for name in node.input}
    used = [tensor for tensor in graph.initializer if tensor.name in read_values]
    del graph.initializer[:]
    graph.initializer.extend(used)
