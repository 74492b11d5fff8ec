"""Fuse the dozen nodes of an exported attention into ONNX's Attention operator (opset 23).

onnxruntime's kernel avoids the copies between those nodes. It exists since version 1.23, so files
for all clients keep the separate nodes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from tinyclip_export.onnx_passes.graph_utils import (
    constants,
    consumers,
    producers,
    raise_opset,
    replace_nodes,
    sole_consumer,
)

Onnx: TypeAlias = Any  # a message of onnx, which has no types

OPSET = 23
TO_HEADS, KEYS = [0, 2, 1, 3], [0, 2, 3, 1]  # transposes of [B, L, H, W]


def use_attention_operator(model: Onnx) -> int:
    """Replace every attention in the form of ``towers.blocks.Attention``; return their number."""
    graph = _Graph(model.graph)
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    attentions = [pair for node in softmaxes if (pair := graph.attention(node)) is not None]
    if not attentions:
        return 0
    operators = {id(end): operator for end, operator in attentions}
    nodes = [operators.get(id(node), node) for node in model.graph.node]
    _replace(model.graph, nodes)
    raise_opset(model, OPSET)
    return len(attentions)


class _Graph:
    """Producers and consumers of each value of a graph."""

    def __init__(self, graph: Onnx) -> None:
        self.constants = constants(graph)
        self.producer, self.consumers = producers(graph), consumers(graph)

    def attention(self, softmax: Onnx) -> tuple[Onnx, Onnx] | None:
        """Return the last node of the attention around a softmax, and its replacement."""
        from onnx import helper

        scores, mask = self.producer.get(softmax.input[0]), []
        if scores is not None and scores.op_type == "Add":
            masked_scores = scores
            scores = self._from(masked_scores, 0, "MatMul") or self._from(
                masked_scores, 1, "MatMul"
            )
            mask = [
                input_name
                for input_name in masked_scores.input
                if self.producer.get(input_name) is not scores
            ]
        scaled = self._from(scores, 0, "Mul")
        factor = scaled and self.constants.get(scaled.input[1])
        query = self._split(scaled, 0, TO_HEADS)
        key = self._split(scores, 1, KEYS)
        weighted_values = sole_consumer(self.consumers, softmax.output[0], "MatMul")
        value = self._split(weighted_values, 1, TO_HEADS)
        transpose = weighted_values and sole_consumer(
            self.consumers, weighted_values.output[0], "Transpose"
        )
        end = transpose and sole_consumer(self.consumers, transpose.output[0], "Reshape")
        if not (factor and query and key and value and end and _order(transpose) == TO_HEADS):
            return None
        heads = {self._heads(part) for part in (query, key, value)}
        if len(heads) != 1 or None in heads:
            return None
        (count,) = heads
        operator = helper.make_node(
            "Attention",
            [query.input[0], key.input[0], value.input[0], *mask],
            [end.output[0]],
            name=f"{end.name}_attention",
            q_num_heads=count,
            kv_num_heads=count,
            scale=float(_array(factor)),
        )
        return end, operator

    def _from(self, node: Onnx | None, index: int, kind: str) -> Onnx | None:
        source = node and self.producer.get(node.input[index])
        return source if source is not None and source.op_type == kind else None

    def _split(self, node: Onnx | None, index: int, order: list[int]) -> Onnx | None:
        """Return the Reshape to heads before the Transpose (of this order) that makes an input."""
        transpose = self._from(node, index, "Transpose")
        return (
            self._from(transpose, 0, "Reshape")
            if transpose and _order(transpose) == order
            else None
        )

    def _heads(self, reshape: Onnx) -> int | None:
        """Return H of the target shape ``[B, L, H, W]``, a constant or a Concat of constants."""
        shape = self.constants.get(reshape.input[1])
        if shape is not None:
            return int(_array(shape)[2])
        concat = self._from(reshape, 1, "Concat")
        head_count = concat and len(concat.input) == 4 and self.constants.get(concat.input[2])
        return int(_array(head_count).item()) if head_count else None


def _replace(graph: Onnx, nodes: list[Onnx]) -> None:
    """Replace the graph's nodes by those of the new ones whose outputs are still used."""
    read_values = {value.name for value in graph.output}
    needed = []
    for node in reversed(nodes):
        if read_values.intersection(node.output):
            needed.append(node)
            read_values.update(node.input)
    replace_nodes(graph, needed[::-1])


def _order(transpose: Onnx) -> list[int]:
    return [axis for entry in transpose.attribute for axis in entry.ints]


def _array(tensor: Onnx) -> Any:  # noqa: ANN401
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)
