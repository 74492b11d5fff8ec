"""Replace layer norms by RMS norms, on a residual stream whose rows have zero mean.

A layer norm subtracts a row's mean and divides by its root mean square. In a pre-norm transformer
the subtraction can be moved into the weights: everything that is added to the residual stream comes
from weights, biases and tables, from which the mean can be removed once (SliceGPT, arXiv
2401.15024, section 3.1). What remains is RMSNormalization (opset 23), which costs half as much in
onnxruntime. The result is exact up to rounding, which includes that of quantized weights.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinyclip_export.onnx_passes.graph_utils import (
    add_constant,
    constants,
    consumers,
    following_bias,
    producers,
    raise_opset,
    replace_nodes,
)

Onnx: TypeAlias = Any  # a message of onnx, which has no types

OPSET = 23
MAX_RUNTIME_MEANS = 1  # means subtracted at run time; each costs as much as two norms save
_ROW_OPERATORS = ("Slice", "Gather", "GatherElements", "ReduceMean", "Expand")


def remove_means(model: Onnx) -> list[str]:
    """Rewrite an fp32 tower so that its residual stream has zero mean; return the norms' names.

    The norms stay layer norms, but their biases move into the products that follow. Returns no
    names and leaves the model unchanged if part of the stream cannot be rewritten.
    """
    graph = model.graph
    stream = _Stream(graph)
    norms = [node for node in graph.node if stream.can_lose_bias(node)]
    for norm in norms:
        stream.trace(norm)
    for norm in stream.norms_outside():
        stream.trace(norm)
    if not norms or stream.has_unsupported or len(stream.sources) > MAX_RUNTIME_MEANS:
        return []
    if any(not stream.is_private(value) for value in stream.values):
        return []
    stream.centre_writers()
    for norm in norms:
        stream.fold_bias(norm)
    stream.centre_sources()
    return [str(norm.name) for norm in norms]


def use_rms_norms(model: Onnx, names: list[str], *, standard: bool = True) -> None:
    """Turn layer norms without a bias, whose inputs have zero mean, into RMS norms.

    `standard`: as ONNX's RMSNormalization; else by the name under which every supported onnxruntime
    knows the same kernel.
    """
    norm_names = set(names)
    for node in model.graph.node:
        if node.name in norm_names:
            node.op_type = "RMSNormalization" if standard else "SimplifiedLayerNormalization"
    if names and standard:
        raise_opset(model, OPSET)


class _Stream:
    """The residual stream of a tower: inputs of its norms, traced back to the weights."""

    def __init__(self, graph: Onnx) -> None:
        self.graph = graph
        self.constants = constants(graph)
        self.producer, self.consumers = producers(graph), consumers(graph)
        self.values: set[str] = set()
        self.traced_inputs: set[tuple[int, int]] = set()  # node id and input index
        self.writers: list[tuple[Onnx, int]] = []  # node and its constant input
        self.sources: list[Onnx] = []  # nodes whose mean is subtracted at run time
        self.has_unsupported = False  # part of the stream cannot be rewritten

    def can_lose_bias(self, node: Onnx) -> bool:
        """Whether a node is a layer norm over rows whose consumers are products with a bias."""
        if node.op_type != "LayerNormalization" or len(node.output) != 1:
            return False
        following = self.consumers[node.output[0]]
        has_constant_parameters = all(name in self.constants for name in node.input[1:])
        only_biased_products = bool(following) and all(
            following_bias(part, self.constants, self.consumers) for part in following
        )
        return _is_over_last_axis(node) and has_constant_parameters and only_biased_products

    def norms_outside(self) -> list[Onnx]:
        """Return the norms whose outputs are not in the stream, such as the final one."""
        return [
            node
            for node in self.graph.node
            if node.op_type == "LayerNormalization" and node.output[0] not in self.values
        ]

    def trace(self, norm: Onnx) -> None:
        """Trace the input of a norm, ``[..., W]``, back to all terms that are added up in it."""
        scale = self.constants.get(norm.input[1])
        if scale is None:
            self.has_unsupported = True
            return
        width, pending = scale.dims[-1], [norm.input[0]]
        while pending:
            name = pending.pop()
            if name in self.values:
                continue
            node = self.producer.get(name)
            self.values.add(name)
            if node is None or len(node.output) != 1:
                self.has_unsupported = True
                return
            for index in self._traced_indices(node, width):
                self.traced_inputs.add((id(node), index))
                if node.input[index] not in self.constants:
                    pending.append(node.input[index])
                elif self._array(node.input[index]).shape[-1:] == (width,):
                    self.writers.append((node, index))
                else:
                    self.has_unsupported = True

    def _traced_indices(self, node: Onnx, width: int) -> list[int]:
        """Return the inputs through which a node passes on row means; none for a source."""
        if node.op_type == "Add":
            return [0, 1]
        if node.op_type == "MatMul" and node.input[1] in self.constants:
            return [1]
        if node.op_type == "Concat" and _attribute(node, "axis") == 1:
            return list(range(len(node.input)))
        if node.op_type in _ROW_OPERATORS and self._preserves_rows(node, width):
            return [0]
        self.sources.append(node)
        return []

    def _preserves_rows(self, node: Onnx, width: int) -> bool:
        """Whether a node selects, repeats or averages whole rows."""
        constant = self.constants.get(node.input[0])
        if node.op_type == "Gather":
            axis = _attribute(node, "axis") or 0
            return axis == 1 or (axis == 0 and constant is not None and len(constant.dims) == 2)
        if node.op_type == "GatherElements":
            index = self.producer.get(node.input[1])
            return _attribute(node, "axis") == 1 and index is not None and index.op_type == "Expand"
        if node.op_type == "Expand":
            return constant is not None and constant.dims[-1] == width
        axes_input = 3 if node.op_type == "Slice" else 1
        axes = node.input[axes_input] if len(node.input) > axes_input else ""
        if axes not in self.constants:
            return False
        rank = len(constant.dims) if constant is not None else 3
        return all(axis not in (-1, rank - 1) for axis in self._array(axes).ravel())

    def is_private(self, value: str) -> bool:
        """Whether all consumers of a value are in the stream or are layer norms."""
        outputs = {output.name for output in self.graph.output}
        return value not in outputs and all(
            node.op_type == "Shape"
            or (node.op_type == "LayerNormalization" and index == 0 and _is_over_last_axis(node))
            or (id(node), index) in self.traced_inputs
            for node in self.consumers[value]
            for index, name in enumerate(node.input)
            if name == value
        )

    def centre_writers(self) -> None:
        """Remove the mean from the constants that feed the stream."""
        for node, index in self.writers:
            array = self._array(node.input[index])
            exact = array.astype(np.float64)
            self._set_constant(
                node, index, (exact - exact.mean(-1, keepdims=True)).astype(array.dtype)
            )

    def fold_bias(self, norm: Onnx) -> None:
        """Fold a norm's bias ``[W]`` into the products that follow: b + bias @ weight."""
        if len(norm.input) < 3:
            return
        bias = self._array(norm.input[2]).astype(np.float64)
        del norm.input[2]
        for product in self.consumers[norm.output[0]]:
            bias_input = following_bias(product, self.constants, self.consumers)
            assert bias_input is not None  # checked by can_lose_bias
            add, input_index = bias_input
            bias_array = self._array(add.input[input_index])
            folded = bias_array + bias @ self._array(product.input[1])
            self._set_constant(add, input_index, folded.astype(bias_array.dtype))

    def centre_sources(self) -> None:
        """Subtract the mean of all other terms at run time; replaces nodes, so do it last."""
        from onnx import helper

        nodes = []
        for node in self.graph.node:
            nodes.append(node)
            if not any(node is source for source in self.sources):
                continue
            name = str(node.output[0])
            with_mean, mean, axes = f"{name}_with_mean", f"{name}_mean", f"{name}_axes"
            node.output[0] = with_mean
            add_constant(self.graph, axes, np.array([-1]))
            nodes += [
                helper.make_node("ReduceMean", [with_mean, axes], [mean], mean, keepdims=1),
                helper.make_node("Sub", [with_mean, mean], [name], f"{name}_centred"),
            ]
        replace_nodes(self.graph, nodes)

    def _array(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        array: np.ndarray = numpy_helper.to_array(self.constants[name])
        return array

    def _set_constant(self, node: Onnx, index: int, value: np.ndarray) -> None:
        """Set an input to a new constant, since exported graphs share equal constants."""
        name = f"{node.name}_{index}"
        self.constants[name] = add_constant(self.graph, name, value)
        node.input[index] = name


def _is_over_last_axis(norm: Onnx) -> bool:
    return _attribute(norm, "axis") in (None, -1)


def _attribute(node: Onnx, name: str) -> int | None:
    return next((int(entry.i) for entry in node.attribute if entry.name == name), None)
