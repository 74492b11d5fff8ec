"""Integer products of the same input as one: queries, keys and values of a text tower.

At the few tokens of a text a product costs little more than its call. At an image's many the copy
that takes the three apart again costs more than it spares, so images keep theirs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tinyclip_export.wiring import producers, readers, replace_nodes

Onnx: TypeAlias = Any  # a message of onnx, which has no types


@dataclass(frozen=True, slots=True)
class _Product:
    """A MatMulInteger and what makes a float of its sum, as onnxruntime's quantizer writes it."""

    nodes: tuple[Onnx, ...]  # MatMulInteger, Cast, Mul, Add and the Mul of both scales
    input_scale: str
    constants: tuple[str, str, str]  # weight [K, N], its scales [N], bias [N]

    @property
    def output(self) -> str:
        return str(self.nodes[3].output[0])


def join_products(model: Onnx) -> int:
    """Join the products that read the same quantized value; return the number of joint ones."""
    graph = model.graph
    shared: dict[str, list[_Product]] = defaultdict(list)
    for found in _products(graph):
        shared[found.nodes[0].input[0]].append(found)
    groups = [group for group in shared.values() if len(group) > 1]
    gone = {id(node) for group in groups for product in group for node in product.nodes}
    made = {id(group[0].nodes[0]): _joined(graph, group) for group in groups}
    nodes = []
    for node in graph.node:
        nodes += made.get(id(node), [])
        nodes += [] if id(node) in gone else [node]
    replace_nodes(graph, nodes)
    return len(groups)


def _products(graph: Onnx) -> list[_Product]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producer, reading = producers(graph), readers(graph)
    found = []
    for node in graph.node:
        chain = [node]
        for _ in range(3):
            behind = reading[chain[-1].output[0]]
            chain += behind if len(behind) == 1 else []
        kinds = [part.op_type for part in chain]
        if kinds != ["MatMulInteger", "Cast", "Mul", "Add"] or _has_zero_points(node):
            continue
        scaled = next(name for name in chain[2].input if name != chain[1].output[0])
        both = producer.get(scaled)
        if both is None or both.op_type != "Mul" or len(reading[scaled]) != 1:
            continue
        scale = [name for name in both.input if name in constants]
        bias = [name for name in chain[3].input if name in constants]
        if len(scale) == len(bias) == 1:
            (given,) = set(both.input) - set(scale)
            constant = (node.input[1], scale[0], bias[0])
            found.append(_Product((*chain, both), given, constant))
    return found


def _has_zero_points(node: Onnx) -> bool:
    return len(node.input) == 4


def _joined(graph: Onnx, group: list[_Product]) -> list[Onnx]:
    """Return the nodes of one product and of its Split, whose outputs have the old names."""
    from onnx import TensorProto, helper, numpy_helper

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = group[0].nodes[0]
    name = f"{first.name}_joint"
    sizes = np.array([values[product.constants[1]].size for product in group])
    parts = zip(*(product.constants for product in group), strict=True)
    joint = [np.concatenate([values[one] for one in part], axis=-1) for part in parts]
    ends = ("weight", "scale", "bias", "sizes")
    for end, value in zip(ends, (*joint, sizes), strict=True):
        graph.initializer.append(numpy_helper.from_array(value, f"{name}_{end}"))
    steps: tuple[tuple[str, list[str], str, dict[str, int]], ...] = (
        ("MatMulInteger", [first.input[0], f"{name}_weight", first.input[2]], "sum", {}),
        ("Cast", [f"{name}_sum"], "cast", {"to": TensorProto.FLOAT}),
        ("Mul", [group[0].input_scale, f"{name}_scale"], "scales", {}),
        ("Mul", [f"{name}_cast", f"{name}_scales"], "scaled", {}),
        ("Add", [f"{name}_scaled", f"{name}_bias"], "out", {}),
    )
    nodes = [
        helper.make_node(kind, inputs, [f"{name}_{end}"], f"{name}_{end}", **options)
        for kind, inputs, end, options in steps
    ]
    inputs, outputs = [f"{name}_out", f"{name}_sizes"], [product.output for product in group]
    return [*nodes, helper.make_node("Split", inputs, outputs, f"{name}_split", axis=-1)]
