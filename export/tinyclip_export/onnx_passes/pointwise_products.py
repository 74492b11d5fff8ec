"""Write pointwise (1x1) convolutions as matrix products, which all quantizers of products accept.

An integer convolution rounds its output to eight bits and has one range for its input, measured
beforehand. An integer product ``[B, H, W, C] x [C, N]`` has float outputs, and may have a range per
call, or weights of 4 bits.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_export.onnx_passes.graph_utils import (
    add_constant,
    constants,
    consumers,
    producers,
    remove_unused_constants,
    replace_nodes,
    sole_consumer,
)

Onnx: TypeAlias = Any  # a message of onnx, which has no types
Weights: TypeAlias = npt.NDArray[np.float32]

CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # of an input that has the other order
ACTIVATIONS = ("Gelu", "Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu")


def pointwise_as_products(model: Onnx, least_channels: int = 1) -> list[str]:
    """Replace the pointwise convolutions of `model` in place by products; return their names.

    Those with fewer than `least_channels` input and output channels stay. A product has the name of
    its convolution and its channels last; an activation between two products has them last too.
    A scale per channel that follows a convolution is folded into the weights.
    """
    graph = model.graph
    weights, readers = constants(graph), consumers(graph)
    nodes: list[Onnx] = []
    names: list[str] = []
    folded: set[str] = set()
    for node in graph.node:
        if node.output[0] in folded:
            continue
        if not _is_pointwise(node, weights, least_channels):
            nodes.append(node)
            continue
        scale = _following_scale(node, weights, readers)
        nodes += _product(graph, node, weights, scale)
        names.append(node.name)
        if scale is not None:
            folded.add(scale[0].output[0])
    replace_nodes(graph, nodes)
    _keep_channels_last(graph)
    remove_unused_constants(graph)
    return names


def _is_pointwise(node: Onnx, weights: dict[str, Onnx], least_channels: int) -> bool:
    if node.op_type != "Conv" or not all(name in weights for name in node.input[1:]):
        return False
    settings = {each.name: each for each in node.attribute}
    outputs, inputs, *kernel = weights[node.input[1]].dims
    if kernel != [1, 1] or max(outputs, inputs) < least_channels:
        return False
    if "group" in settings and settings["group"].i != 1:
        return False
    if "strides" in settings and {*settings["strides"].ints} != {1}:
        return False
    return "pads" not in settings or not any(settings["pads"].ints)


def _following_scale(
    node: Onnx, weights: dict[str, Onnx], readers: dict[str, list[Onnx]]
) -> tuple[Onnx, Weights] | None:
    """Return the Mul of a constant ``[N, 1, 1]`` after a convolution, and that constant ``[N]``."""
    from onnx import numpy_helper

    scaling = sole_consumer(readers, node.output[0], "Mul")
    for name in () if scaling is None else scaling.input:
        if name in weights:
            factors = numpy_helper.to_array(weights[name])
            if factors.shape[-3:] == (weights[node.input[1]].dims[0], 1, 1):
                return scaling, factors.ravel()
    return None


def _product(
    graph: Onnx, node: Onnx, weights: dict[str, Onnx], scale: tuple[Onnx, Weights] | None
) -> list[Onnx]:
    """Return the nodes of a product with bias, between transpositions."""
    from onnx import helper, numpy_helper

    name, (source, weight, *bias) = node.name, node.input
    output, factors = node.output[0], np.float32(1.0)
    if scale is not None:
        output, factors = scale[0].output[0], scale[1]
    matrix = numpy_helper.to_array(weights[weight])[:, :, 0, 0].T * factors
    add_constant(graph, f"{name}_matrix", matrix)
    last, result = f"{name}_channels_last", f"{name}_product"
    nodes = [
        helper.make_node("Transpose", [source], [last], last, perm=CHANNELS_LAST),
        helper.make_node("MatMul", [last, f"{name}_matrix"], [result], name),
    ]
    if bias:
        add_constant(graph, f"{name}_bias", numpy_helper.to_array(weights[bias[0]]) * factors)
        nodes.append(
            helper.make_node("Add", [result, f"{name}_bias"], [f"{name}_sum"], f"{name}_sum")
        )
        result = f"{name}_sum"
    first = f"{name}_channels_first"
    return [*nodes, helper.make_node("Transpose", [result], [output], first, perm=CHANNELS_FIRST)]


def _keep_channels_last(graph: Onnx) -> None:
    """Remove the transpositions before and after an activation between two products."""
    producer, readers = producers(graph), consumers(graph)
    removed: set[str] = set()
    for node in graph.node:
        before = producer.get(node.input[0]) if node.op_type in ACTIVATIONS else None
        if before is None or len(readers[before.output[0]]) != 1:
            continue
        after = sole_consumer(readers, node.output[0], "Transpose")
        if after is None or not (_orders(before, CHANNELS_FIRST) and _orders(after, CHANNELS_LAST)):
            continue
        node.input[0], node.output[0] = before.input[0], after.output[0]
        removed.update((before.name, after.name))
    replace_nodes(graph, [node for node in graph.node if node.name not in removed])


def _orders(node: Onnx, order: list[int]) -> bool:
    """Whether a node transposes to this order."""
    return node.op_type == "Transpose" and any(list(each.ints) == order for each in node.attribute)
