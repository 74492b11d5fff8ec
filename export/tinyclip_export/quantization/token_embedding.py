"""The token table of a text tower in 8, 4 or 3 bits; rows become float when they are looked up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.config.preset import TABLES
from tinyclip_edge.errors import ModelError
from tinyclip_export.onnx_passes.graph_utils import constants, import_domain, replace_nodes
from tinyclip_export.quantization.block_rounding import BlockWeight, Matrix, round_blocks
from tinyclip_export.quantization.token_codebook import CodebookTable, codebook_table

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types
Weights: TypeAlias = npt.NDArray[np.float32]

TABLE_BITS = {name: bits for bits, name in TABLES.items()}
BLOCK = 32  # values with one scale in the 4-bit table
CHUNK = 16384  # rows at a time
RoundedTable: TypeAlias = BlockWeight | CodebookTable
_SHRINKS = np.linspace(0.7, 1.0, 7, dtype=np.float32)  # clipping factors tried per 4-bit block


def quantize_table(model: ModelProto, bits: int, rounded: RoundedTable | None = None) -> None:
    """Quantize the token table of `model` in place; 32 bits leave it unchanged.

    8 bits: int8 with one scale per row, in standard ONNX operators. 4 bits: one scale per 32
    values, in onnxruntime's GatherBlockQuantized. 3 bits: codes and codebooks, in standard
    operators. ``rounded``: the result of `rounded_table`; by default values of 8 and 4 bits are
    rounded to the nearest. Raises ModelError without a table, or with 4 bits if the row length is
    not a multiple of 32.
    """
    if bits == 32:
        return
    from onnx import numpy_helper

    graph = model.graph
    tensors = constants(graph)
    node = _lookup(graph, tensors)
    tensor = tensors[node.input[0]]
    table = numpy_helper.to_array(tensor).astype(np.float32)
    if bits == 8:
        parts, nodes = _in_bytes(node, table)
    elif bits == 4:
        assert not isinstance(rounded, CodebookTable)
        parts, nodes = _in_halves(node, table, rounded)
    else:
        if rounded is None:
            rounded = codebook_table(table, np.eye(table.shape[1]))
        assert isinstance(rounded, CodebookTable)
        parts, nodes = _in_codes(node, rounded)
    if bits == 4:
        import_domain(model, "com.microsoft")
    graph.initializer.remove(tensor)
    graph.initializer.extend(numpy_helper.from_array(part, name) for name, part in parts.items())
    position = list(graph.node).index(node)
    replace_nodes(graph, [*graph.node[:position], *nodes, *graph.node[position + 1 :]])


def rounded_table(source: Path, bits: int, feedback: Matrix) -> RoundedTable | None:
    """Return the token table of a float file in 4 or 3 bits, rounded with `error_feedback`.

    None for other bits, or a table of another width than ``feedback``.
    """
    import onnx
    from onnx import numpy_helper

    if bits not in (3, 4):
        return None
    graph = onnx.load(str(source)).graph
    tensors = constants(graph)
    table = numpy_helper.to_array(tensors[_lookup(graph, tensors).input[0]]).astype(np.float32)
    width = table.shape[1]
    if width != len(feedback):
        return None
    if bits == 3:
        return codebook_table(table, feedback)
    parts = [
        round_blocks(table[start : start + CHUNK].T, feedback, BLOCK)
        for start in range(0, len(table), CHUNK)
    ]
    values, scales = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("values", "scales")
    )
    return BlockWeight(values, scales, BLOCK)


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


def _in_halves(
    node: Any,  # noqa: ANN401
    table: Weights,
    rounded: BlockWeight | None,
) -> tuple[dict[str, Any], list[Any]]:
    from onnx import helper

    width = table.shape[1]
    if width % BLOCK:
        raise ModelError(
            f"token table: rows of {width} values are not a multiple of {BLOCK}, as 4 bits "
            "require; set token_table: 8 bit"
        )
    name, ids = node.input[0], node.input[1]
    if rounded is None:
        values, scale = half_byte_blocks(table)
    else:
        values = (rounded.values.T + 8).astype(np.uint8)
        scale = np.ascontiguousarray(rounded.scales.T, np.float32)
    packed = values[:, 0::2] | (values[:, 1::2] << 4)  # the low half comes first
    inputs = [f"{name}_halves", ids, f"{name}_scales"]
    settings = {"bits": 4, "block_size": BLOCK, "quantize_axis": 1, "gather_axis": 0}
    gather = helper.make_node(
        "GatherBlockQuantized", inputs, [node.output[0]], domain="com.microsoft", **settings
    )
    return {f"{name}_halves": packed, f"{name}_scales": scale}, [gather]


def _in_codes(node: Any, table: CodebookTable) -> tuple[dict[str, Any], list[Any]]:  # noqa: ANN401
    from onnx import TensorProto, helper

    name, ids, output = node.input[0], node.input[1], node.output[0]
    groups, words, triple = table.words.shape
    parts = {
        f"{name}_codes": table.codes,
        f"{name}_words": table.words.reshape(groups * words, triple),
        f"{name}_scales": table.scales,
        f"{name}_first": (np.arange(groups) * words).astype(np.int32),  # of each codebook
        f"{name}_shape": np.array([0, 0, groups * triple], np.int64),
        f"{name}_start": np.array([0], np.int64),
        f"{name}_width": np.array([table.width], np.int64),
        f"{name}_axis": np.array([2], np.int64),
    }
    chain = [
        ("Gather", [f"{name}_codes", ids], "code"),
        ("Cast", [f"{name}_code"], "number"),
        ("Add", [f"{name}_number", f"{name}_first"], "word"),
        ("Gather", [f"{name}_words", f"{name}_word"], "triples"),
        ("Reshape", [f"{name}_triples", f"{name}_shape"], "row"),
        ("Slice", [f"{name}_row", *(f"{name}_{end}" for end in ("start", "width", "axis"))], "cut"),
        ("Cast", [f"{name}_cut"], "values"),
        ("Gather", [f"{name}_scales", ids], "scale"),
        ("Cast", [f"{name}_scale"], "factor"),
        ("Mul", [f"{name}_values", f"{name}_factor"], ""),
    ]
    types = {"number": TensorProto.INT32, "values": TensorProto.FLOAT, "factor": TensorProto.FLOAT}
    nodes = []
    for kind, inputs, result in chain:
        settings = {"to": types[result]} if kind == "Cast" else {}
        value = f"{name}_{result}" if result else output
        nodes.append(
            helper.make_node(kind, inputs, [value], f"{name}_{result or 'rows'}", **settings)
        )
    return parts, nodes
