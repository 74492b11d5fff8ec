"""Token ids as int32, for engines without 64-bit integers."""

from __future__ import annotations

from typing import Any, TypeAlias

from tinyclip_export.layout import TEXT_IO
from tinyclip_export.onnx_passes.graph_utils import replace_nodes

Onnx: TypeAlias = Any  # a message of onnx, which has no types


def narrow_ids(model: Onnx) -> None:
    """Give a text tower int32 ids in place; casts of its ids to int32 are removed."""
    from onnx import TensorProto

    graph, ids = model.graph, TEXT_IO.input_name
    next(
        each for each in graph.input if each.name == ids
    ).type.tensor_type.elem_type = TensorProto.INT32
    same = {
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] == ids
        if node.attribute[0].i == TensorProto.INT32
    }
    for node in graph.node:
        node.input[:] = [ids if name in same else name for name in node.input]
    replace_nodes(graph, [node for node in graph.node if not same.intersection(node.output)])
