"""Decide which convolutions are quantized, and whether a tower is integer throughout."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from tinyclip_export.onnx_passes.graph_utils import consumers

Onnx: TypeAlias = Any  # a message of onnx, which has no types

OPERATORS = ("MatMul", "Gemm", "Conv")  # with weights
BETWEEN = ("Add", "Relu")  # between the convolutions of a ResNet
FEW_PRODUCTS = 32  # per output; with fewer, conversion to int8 and back costs more than it saves


def rectified_sums(model: Onnx) -> set[str]:
    """Return the names of sums with a convolution that a Relu follows, as in a ResNet's blocks.

    After the Relu, their range is that of the next convolution's input, so eight bits suffice, in
    contrast to the residual sums of a transformer.
    """
    graph = model.graph
    producer = {name: node.op_type for node in graph.node for name in node.output}
    consumers_by_value = consumers(graph)
    return {
        node.name
        for node in graph.node
        if node.op_type == "Add"
        and "Conv" in [producer.get(name) for name in node.input]
        and all(producer.get(name) in ("Conv", "Relu") for name in node.input)
        and [reader.op_type for reader in consumers_by_value[node.output[0]]] == ["Relu"]
    }


def is_integer_throughout(model: Onnx) -> bool:
    """Whether only Relus and rectified sums are between the convolutions."""
    nodes = model.graph.node
    sums = rectified_sums(model)
    first, last = (
        next((n for n, node in order if node.op_type == "Conv"), None)
        for order in (enumerate(nodes), reversed(list(enumerate(nodes))))
    )
    if not sums or first is None or last is None:
        return False
    return all(
        node.op_type in ("Conv", "Relu") or node.name in sums for node in nodes[first : last + 1]
    )


def quantized_kinds(model: Onnx) -> tuple[str, ...]:
    """Return the types of operators that static int8 quantizes in this tower."""
    return (*OPERATORS, *BETWEEN) if is_integer_throughout(model) else OPERATORS


def outside_convolutions(model: Onnx) -> list[str]:
    """Return the names of sums and Relus that stay float, such as biases after a product."""
    sums = rectified_sums(model)
    inside = {
        name
        for node in model.graph.node
        if node.op_type == "Conv" or node.name in sums
        for name in node.output
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type in BETWEEN and node.name not in sums
        if node.op_type == "Add" or node.input[0] not in inside
    ]


def float_convolutions(model: Onnx) -> list[str]:
    """Return the names of convolutions that stay float: grouped ones, and small ones.

    An input has one scale for all its channels, and in depthwise convolutions their ranges differ
    most. These take little time: in MobileCLIP2-S0 a tenth of a float call.
    A tower that is integer throughout has none (a ResNet's grouped ones are its average pools).
    """
    if is_integer_throughout(model):
        return []
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and (_groups(node) > 1 or math.prod(sizes.get(node.input[1], [])[1:]) < FEW_PRODUCTS)
    ]


def _groups(convolution: Onnx) -> int:
    return next((each.i for each in convolution.attribute if each.name == "group"), 1)
