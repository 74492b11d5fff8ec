"""The norm of an embedding in elementary operators, for engines without ReduceL2."""

from __future__ import annotations

from typing import Any, TypeAlias

from tinyclip_export.onnx_passes.graph_utils import replace_nodes

Onnx: TypeAlias = Any  # a message of onnx, which has no types

PREFIX = "plain_norm."  # of the nodes' names; fp16 keeps them in float32, as squares are large


def write_out_norms(model: Onnx) -> None:
    """Replace each ReduceL2 by the root of a sum of squares, in place."""
    from onnx import helper

    nodes = []
    for node in model.graph.node:
        if node.op_type != "ReduceL2":
            nodes.append(node)
            continue
        (x, axes), name = node.input, f"{PREFIX}{node.output[0]}"
        square, total = f"{name}.square", f"{name}.sum"
        sums = helper.make_node("ReduceSum", [square, axes], [total], total)
        sums.attribute.extend(node.attribute)
        nodes += [
            helper.make_node("Mul", [x, x], [square], square),
            sums,
            helper.make_node("Sqrt", [total], [node.output[0]], name),
        ]
    replace_nodes(model.graph, nodes)
