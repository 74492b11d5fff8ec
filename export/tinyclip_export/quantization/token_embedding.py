"""The token table of a text tower in 8 or 4 bits; rows are dequantized when they are looked up."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.config.preset import TABLES
from tinyclip_edge.errors import ModelError
from tinyclip_export.onnx_passes.graph_utils import constants, import_domain, replace_nodes

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types
Weights: TypeAlias = npt.NDArray[np.float32]

TABLE_BITS = {name: bits for bits, name in TABLES.items()}
BLOCK = 32  # values with one scale in the 4-bit table
_SHRINKS = np.linspace(0.7, 1.0, 7, dtype=np.float32)  # clipping factors tried per 4-bit block


def quantize_table(model: ModelProto, bits: int) -> None:
    """Quantize the token table of `model` in place; 32 bits leave it unchanged.

    8 bits: int8 with one scale per row, in standard ONNX operators. 4 bits: one scale per 32
    values, in onnxruntime's GatherBlockQuantized. Raises ModelError without a table, or with 4 bits
    if the row length is not a multiple of 32.
    """
    if bits == 32:
        return
    from onnx import numpy_helper

    graph = model.graph
    tensors = constants(graph)
    node = _lookup(graph, tensors)
    tensor = tensors[node.input[0]]
    table = numpy_helper.to_array(tensor).astype(np.float32)
    parts, nodes = (_in_bytes if bits == 8 else _in_halves)(node, table)
    if bits == 4:
        import_domain(model, "com.microsoft")
    graph.initializer.remove(tensor)
    graph.initializer.extend(numpy_helper.from_array(part, name) for name, part in parts.items())
    position = list(graph.node).index(node)
    replace_nodes(graph, [*graph.node[:position], *nodes, *graph.node[position + 1 :]])


def byte_rows(table: Weights) -> tuple[npt.NDArray[np.int8], Weights]:
    """Quantize ``[V, W]`` to int8 with a scale per row, ``[V, 1]``; a zero row stays zero."""
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    scale[scale == 0.0] = 1.0
    return np.round(table / scale).astype(np.int8), scale


def half_byte_blocks(table: Weights) -> tuple[npt.NDArray[np.uint8], Weights]:
    """Quantize ``[V, W]`` to 0..15 around 8 with a scale per 32 values, ``[V, W / 32]``.

    Each block uses the one of a few scales that has the smallest squared error.
    """
    blocks = table.reshape(len(table), -1, BLOCK)
    # The value of largest magnitude becomes -8, since the negative side has one more step.
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    widest = extreme / -8.0
    widest[widest == 0.0] = 1.0
    smallest_error, scale = np.full(blocks.shape[:2], np.inf, np.float32), widest.copy()
    for shrink in _SHRINKS:
        candidate = widest * shrink
        error = np.square(blocks - candidate * np.clip(np.round(blocks / candidate), -8, 7)).sum(-1)
        better = error < smallest_error
        smallest_error[better], scale[better] = error[better], candidate[better]
    values = np.clip(np.round(blocks / scale), -8, 7) + 8
    return values.reshape(table.shape).astype(np.uint8), scale[..., 0]


def _lookup(graph: Any, tensors: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return the Gather with the largest table."""
    gathers = [
        node
        for node in graph.node
        if node.op_type == "Gather" and len(getattr(tensors.get(node.input[0]), "dims", ())) == 2
    ]
    if not gathers:
        raise ModelError("the text tower has no token table to quantize; set token_table: float")
    return max(gathers, key=lambda node: int(np.prod(tensors[node.input[0]].dims)))


def _in_bytes(node: Any, table: Weights) -> tuple[dict[str, Any], list[Any]]:  # noqa: ANN401
    from onnx import TensorProto, helper

    name, ids = node.input[0], node.input[1]
    rows, scale = byte_rows(table)
    nodes = [
        helper.make_node("Gather", [f"{name}_rows", ids], [f"{name}_row"], f"{name}_rows"),
        helper.make_node("Cast", [f"{name}_row"], [f"{name}_cast"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{name}_scales", ids], [f"{name}_scale"], f"{name}_scales"),
        helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [node.output[0]]),
    ]
    return {f"{name}_rows": rows, f"{name}_scales": scale}, nodes


def _in_halves(node: Any, table: Weights) -> tuple[dict[str, Any], list[Any]]:  # noqa: ANN401
    from onnx import helper

    width = table.shape[1]
    if width % BLOCK:
        raise ModelError(
            f"token table: rows of {width} values are not a multiple of {BLOCK}, as 4 bits "
            "require; set token_table: 8 bit"
        )
    name, ids = node.input[0], node.input[1]
    values, scale = half_byte_blocks(table)
    packed = values[:, 0::2] | (values[:, 1::2] << 4)  # the low half comes first
    inputs = [f"{name}_halves", ids, f"{name}_scales"]
    settings = {"bits": 4, "block_size": BLOCK, "quantize_axis": 1, "gather_axis": 0}
    gather = helper.make_node(
        "GatherBlockQuantized", inputs, [node.output[0]], domain="com.microsoft", **settings
    )
    return {f"{name}_halves": packed, f"{name}_scales": scale}, [gather]
