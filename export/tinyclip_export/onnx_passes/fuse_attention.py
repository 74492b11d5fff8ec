"""Fuse the dozen nodes of an exported attention into one operator.

onnxruntime's kernels avoid the copies between those nodes. ONNX's own Attention (opset 23) exists
there since version 1.23; MultiHeadAttention, of onnxruntime's domain, in all versions that the
runtime supports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tinyclip_export.onnx_passes.graph_utils import (
    add_constant,
    constants,
    consumers,
    import_domain,
    inferred_shapes,
    producers,
    raise_opset,
    replace_nodes,
    sole_consumer,
)

Onnx: TypeAlias = Any  # a message of onnx, which has no types

OPSET = 23
CONTRIB = "com.microsoft"
TO_HEADS, KEYS = [0, 2, 1, 3], [0, 2, 3, 1]  # transposes of [B, L, H, W]


def use_attention_operator(model: Onnx) -> int:
    """Replace every attention in the form of ``towers.blocks.Attention``; return their number."""
    attentions = _attentions(model.graph)
    if attentions:
        _replace(model.graph, {id(part.end): [part.operator()] for part in attentions})
        raise_opset(model, OPSET)
    return len(attentions)


def use_multi_head_attention(model: Onnx) -> int:
    """Do the same with onnxruntime's MultiHeadAttention, where shapes allow it.

    Its mask has four axes, and every picture or text needs its own queries.
    """
    shapes = inferred_shapes(model)
    attentions = [part for part in _attentions(model.graph) if _is_multi_head(part, shapes)]
    if attentions:
        masks = {part.mask: part.mask for part in attentions if part.mask}
        unsqueezed = _four_axes(model.graph, masks, shapes)
        replacements: dict[int, list[Onnx]] = {}
        for part in attentions:
            first = unsqueezed.pop(part.mask, [])  # before the first attention that reads it
            replacements[id(part.end)] = [*first, part.multi_head(masks.get(part.mask, ""))]
        _replace(model.graph, replacements)
        import_domain(model, CONTRIB)
    return len(attentions)


def _is_multi_head(part: _Attention, shapes: Mapping[str, list[int | None]]) -> bool:
    query, key = shapes.get(part.query), shapes.get(part.key)
    if query is None or key is None or len(query) != 3 or len(key) != 3 or query[0] != key[0]:
        return False
    if not part.mask:
        return True
    mask = shapes.get(part.mask)
    if mask is None or len(mask) not in (2, 4) or (mask[-2] == 1 and query[1] != 1):
        return False  # a sum repeats one row for all queries, this operator does not
    # onnxruntime 1.20 reads the wrong rows if each picture has one mask for all its heads.
    return len(mask) == 2 or mask[0] == 1 or mask[1] == part.heads


def _four_axes(
    graph: Onnx, masks: dict[str, str], shapes: Mapping[str, list[int | None]]
) -> dict[str, list[Onnx]]:
    """Give masks ``[L, L]`` two leading axes: return nodes by mask, and rename in `masks`."""
    from onnx import helper

    nodes = {}
    for mask in [name for name in masks if len(shapes[name]) == 2]:
        masks[mask], axes = f"{mask}_four_axes", f"{mask}_axes"
        add_constant(graph, axes, np.array([0, 1]))
        nodes[mask] = [helper.make_node("Unsqueeze", [mask, axes], [masks[mask]], masks[mask])]
    return nodes


@dataclass(frozen=True, slots=True)
class _Attention:
    """An attention of the graph, by the names of the values that it reads."""

    end: Onnx  # its last node
    query: str  # [B, Q, W]
    key: str  # [B, L, W]
    value: str
    mask: str  # added to the scores; empty for none
    heads: int
    scale: float

    def operator(self) -> Onnx:
        """Return ONNX's operator."""
        from onnx import helper

        mask = [self.mask] if self.mask else []
        return helper.make_node(
            "Attention",
            [self.query, self.key, self.value, *mask],
            [self.end.output[0]],
            name=f"{self.end.name}_attention",
            q_num_heads=self.heads,
            kv_num_heads=self.heads,
            scale=self.scale,
        )

    def multi_head(self, mask: str) -> Onnx:
        """Return onnxruntime's operator, with a mask of four axes."""
        from onnx import helper

        bias = ["", "", mask] if mask else []  # after the bias and the key mask, which are unused
        return helper.make_node(
            "MultiHeadAttention",
            [self.query, self.key, self.value, *bias],
            [self.end.output[0]],
            name=f"{self.end.name}_attention",
            domain=CONTRIB,
            num_heads=self.heads,
            scale=self.scale,
        )


def _attentions(graph: Onnx) -> list[_Attention]:
    lookup = _Graph(graph)
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    return [part for node in softmaxes if (part := lookup.attention(node)) is not None]


class _Graph:
    """Producers and consumers of each value of a graph."""

    def __init__(self, graph: Onnx) -> None:
        self.constants = constants(graph)
        self.producer, self.consumers = producers(graph), consumers(graph)

    def attention(self, softmax: Onnx) -> _Attention | None:
        """Return the attention around a softmax, or None."""
        scores, mask = self.producer.get(softmax.input[0]), ""
        if scores is not None and scores.op_type == "Add":
            masked_scores = scores
            scores = self._from(masked_scores, 0, "MatMul") or self._from(
                masked_scores, 1, "MatMul"
            )
            mask = next((n for n in masked_scores.input if self.producer.get(n) is not scores), "")
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
        return _Attention(
            end,
            query=str(query.input[0]),
            key=str(key.input[0]),
            value=str(value.input[0]),
            mask=str(mask),
            heads=heads.pop() or 0,
            scale=float(_array(factor)),
        )

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


def _replace(graph: Onnx, replacements: Mapping[int, list[Onnx]]) -> None:
    """Replace nodes, by their id; remove those whose outputs are no longer used."""
    nodes = [new for node in graph.node for new in replacements.get(id(node), [node])]
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
