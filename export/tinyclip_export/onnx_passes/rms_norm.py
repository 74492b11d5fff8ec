"""Layer norms that need not look for a mean, as what they read has none.

A layer norm takes a row's mean away and divides by the root of its mean square. In a pre-norm
transformer the first step can be done beforehand: what is added to the residual stream is made by
weights, biases and tables, and those may lose their mean once and for all (SliceGPT, arXiv
2401.15024, section 3.1). What is left is RMSNormalization (opset 23), which costs half as much in
onnxruntime. Exact but for rounding; quantized weights sum to zero but for theirs.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinyclip_export.onnx_passes.graph_utils import (
    add_constant,
    bias_behind,
    constants,
    producers,
    raise_opset,
    readers,
    replace_nodes,
)

Onnx: TypeAlias = Any  # a message of onnx, which has no types

OPSET = 23
MOST_SUMS = 1  # means that are taken away at run time, which costs what two norms save
_KEEPS_ROWS = ("Slice", "Gather", "GatherElements", "ReduceMean", "Expand")


def take_means_out(model: Onnx) -> list[str]:
    """Rewrite an fp32 tower so that its residual stream has no mean; name the norms behind it.

    They keep their kind, but lose their bias to the products that read them. Empty, and the model
    unchanged, where something stands in the stream that may not be rewritten.
    """
    graph = model.graph
    stream = _Stream(graph)
    norms = [node for node in graph.node if stream.may_lose_bias(node)]
    for norm in norms:
        stream.trace(norm)
    for norm in stream.norms_behind():
        stream.trace(norm)
    if not norms or stream.foreign or len(stream.sources) > MOST_SUMS:
        return []
    if any(not stream.is_private(value) for value in stream.values):
        return []
    stream.centre_writers()
    for norm in norms:
        stream.fold_bias(norm)
    stream.centre_sources()
    return [str(norm.name) for norm in norms]


def use_rms_norms(model: Onnx, names: list[str]) -> None:
    """Turn these layer norms, whose input has no mean and which have no bias, into RMS norms."""
    wanted = set(names)
    for node in model.graph.node:
        if node.name in wanted:
            node.op_type = "RMSNormalization"
    if names:
        raise_opset(model, OPSET)


class _Stream:
    """What a tower's norms read, followed back to the weights that write it."""

    def __init__(self, graph: Onnx) -> None:
        self.graph = graph
        self.constants = constants(graph)
        self.producer, self.readers = producers(graph), readers(graph)
        self.values: set[str] = set()
        self.carried: set[tuple[int, int]] = set()  # nodes and inputs whose means were followed
        self.writers: list[tuple[Onnx, int]] = []  # node and its constant input
        self.sources: list[Onnx] = []  # nodes whose mean is taken away at run time
        self.foreign = False  # something in the stream may not be rewritten

    def may_lose_bias(self, node: Onnx) -> bool:
        """Whether a node is a norm over rows that only products with a bias read."""
        if node.op_type != "LayerNormalization" or len(node.output) != 1:
            return False
        behind = self.readers[node.output[0]]
        known = all(name in self.constants for name in node.input[1:])
        products = bool(behind) and all(
            bias_behind(part, self.constants, self.readers) for part in behind
        )
        return _over_last_axis(node) and known and products

    def norms_behind(self) -> list[Onnx]:
        """Return the norms that write nothing of the stream, such as the one behind its end."""
        return [
            node
            for node in self.graph.node
            if node.op_type == "LayerNormalization" and node.output[0] not in self.values
        ]

    def trace(self, norm: Onnx) -> None:
        """Follow what a norm reads, ``[..., W]``, back to all that is added up in it."""
        scale = self.constants.get(norm.input[1])
        if scale is None:
            self.foreign = True
            return
        width, waiting = scale.dims[-1], [norm.input[0]]
        while waiting:
            name = waiting.pop()
            if name in self.values:
                continue
            node = self.producer.get(name)
            self.values.add(name)
            if node is None or len(node.output) != 1:
                self.foreign = True
                return
            for index in self._carriers(node, width):
                self.carried.add((id(node), index))
                if node.input[index] not in self.constants:
                    waiting.append(node.input[index])
                elif self._array(node.input[index]).shape[-1:] == (width,):
                    self.writers.append((node, index))
                else:
                    self.foreign = True

    def _carriers(self, node: Onnx, width: int) -> list[int]:
        """Return the inputs of a node whose rows' means are its own; none for a source."""
        if node.op_type == "Add":
            return [0, 1]
        if node.op_type == "MatMul" and node.input[1] in self.constants:
            return [1]
        if node.op_type == "Concat" and _option(node, "axis") == 1:
            return list(range(len(node.input)))
        if node.op_type in _KEEPS_ROWS and self._keeps_rows(node, width):
            return [0]
        self.sources.append(node)
        return []

    def _keeps_rows(self, node: Onnx, width: int) -> bool:
        """Whether a node picks, repeats or averages whole rows."""
        table = self.constants.get(node.input[0])
        if node.op_type == "Gather":
            axis = _option(node, "axis") or 0
            return axis == 1 or (axis == 0 and table is not None and len(table.dims) == 2)
        if node.op_type == "GatherElements":
            index = self.producer.get(node.input[1])
            return _option(node, "axis") == 1 and index is not None and index.op_type == "Expand"
        if node.op_type == "Expand":
            return table is not None and table.dims[-1] == width
        place = 3 if node.op_type == "Slice" else 1
        axes = node.input[place] if len(node.input) > place else ""
        if axes not in self.constants:
            return False
        rank = len(table.dims) if table is not None else 3
        return all(axis not in (-1, rank - 1) for axis in self._array(axes).ravel())

    def is_private(self, value: str) -> bool:
        """Whether only the stream and layer norms, which take a mean away, read a value."""
        outputs = {output.name for output in self.graph.output}
        return value not in outputs and all(
            node.op_type == "Shape"
            or (node.op_type == "LayerNormalization" and index == 0 and _over_last_axis(node))
            or (id(node), index) in self.carried
            for node in self.readers[value]
            for index, name in enumerate(node.input)
            if name == value
        )

    def centre_writers(self) -> None:
        """Take the mean out of the constants that write the stream."""
        for node, index in self.writers:
            array = self._array(node.input[index])
            exact = array.astype(np.float64)
            self._give(node, index, (exact - exact.mean(-1, keepdims=True)).astype(array.dtype))

    def fold_bias(self, norm: Onnx) -> None:
        """Move a norm's bias ``[W]`` through the products that read it: b + bias @ weight."""
        if len(norm.input) < 3:
            return
        bias = self._array(norm.input[2]).astype(np.float64)
        del norm.input[2]
        for product in self.readers[norm.output[0]]:
            place = bias_behind(product, self.constants, self.readers)
            assert place is not None  # may_lose_bias looked
            added, side = place
            old = self._array(added.input[side])
            moved = old + bias @ self._array(product.input[1])
            self._give(added, side, moved.astype(old.dtype))

    def centre_sources(self) -> None:
        """Take the mean out of everything else at run time; nodes are exchanged, so do it last."""
        from onnx import helper

        nodes = []
        for node in self.graph.node:
            nodes.append(node)
            if not any(node is source for source in self.sources):
                continue
            name = str(node.output[0])
            whole, mean, axes = f"{name}_with_mean", f"{name}_mean", f"{name}_axes"
            node.output[0] = whole
            add_constant(self.graph, axes, np.array([-1]))
            nodes += [
                helper.make_node("ReduceMean", [whole, axes], [mean], mean, keepdims=1),
                helper.make_node("Sub", [whole, mean], [name], f"{name}_centred"),
            ]
        replace_nodes(self.graph, nodes)

    def _array(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        array: np.ndarray = numpy_helper.to_array(self.constants[name])
        return array

    def _give(self, node: Onnx, index: int, value: np.ndarray) -> None:
        """Give an input a constant of its own: equal ones are one in an exported graph."""
        name = f"{node.name}_{index}"
        self.constants[name] = add_constant(self.graph, name, value)
        node.input[index] = name


def _over_last_axis(norm: Onnx) -> bool:
    return _option(norm, "axis") in (None, -1)


def _option(node: Onnx, name: str) -> int | None:
    return next((int(entry.i) for entry in node.attribute if entry.name == name), None)
