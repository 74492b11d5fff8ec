"""Split feed-forward layers into two halves whose neurons fit the second-level cache.

A feed-forward layer is a sum over its neurons, so they can be computed in two halves:
``down(act(up(x))) = down_0(act(up_0(x))) + down_1(act(up_1(x)))``. With one thread this is faster
where the neurons of a picture exceed that cache and half of them do not; with several threads, the
synchronisation at twice as many nodes costs more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from tinyclip_export.onnx_passes.graph_utils import (
    add_constant,
    constants,
    consumers,
    following_bias,
    inferred_values,
    producers,
    replace_nodes,
    sole_consumer,
)

Onnx: TypeAlias = Any  # a message of onnx, which has no types

# Bytes of a picture's neurons in float32: below the first, all of them fit with inputs and outputs;
# above the second, not even half of them do.
MIN_BYTES, MAX_BYTES = 512 * 1024, 1024 * 1024
COLUMNS = 32  # tile width of the integer kernels
_ELEMENTWISE = ("Gelu", "Erf", "Sigmoid", "Tanh", "Relu", "Mul", "Add", "Div")


@dataclass(frozen=True, slots=True)
class _FeedForward:
    up: Onnx  # MatMul with a weight [W, N]
    up_bias: Onnx  # Add
    activation: tuple[Onnx, ...]
    down: Onnx  # MatMul with a weight [N, W]
    down_bias: Onnx  # Add
    residual: Onnx  # Add


def halve_feed_forwards(model: Onnx) -> dict[str, list[str]]:
    """Split the feed-forward layers of an fp32 tower; return the two new names of each product."""
    graph = model.graph
    finder = _Finder(model)
    layers = [layer for node in graph.node if (layer := finder.layer(node)) is not None]
    removed = {
        id(node)
        for feed_forward in layers
        for node in (
            feed_forward.up,
            feed_forward.up_bias,
            *feed_forward.activation,
            feed_forward.down,
            feed_forward.down_bias,
        )
    }
    replacements = {
        id(feed_forward.residual): _halves(graph, feed_forward) for feed_forward in layers
    }
    nodes = []
    for node in graph.node:
        nodes += replacements.get(id(node), [] if id(node) in removed else [node])
    replace_nodes(graph, nodes)
    return {
        str(node.name): [f"{node.name}.{part}" for part in (0, 1)]
        for feed_forward in layers
        for node in (feed_forward.up, feed_forward.down)
    }


class _Finder:
    """Finds feed-forward layers of a suitable size."""

    def __init__(self, model: Onnx) -> None:
        graph = model.graph
        self.constants = constants(graph)
        self.producer, self.consumers = producers(graph), consumers(graph)
        self.residuals: set[int] = set()  # of the layers so far; a sum of two layers is used once
        self.rows = {value.name: _rows(value) for value in inferred_values(model)}

    def layer(self, down: Onnx) -> _FeedForward | None:
        """Return the layer with this second product, or None."""
        down_bias = self._following_bias(down)
        residual = down_bias and sole_consumer(self.consumers, down_bias.output[0], "Add")
        region: dict[int, Onnx] = {}
        start = self._start(down.input[0], region) if residual is not None else None
        if start is None or not region or not self._is_closed(start, region, down):
            return None
        up_bias = self.producer[start]
        up = next(node for name in up_bias.input if (node := self.producer.get(name)) is not None)
        if self._following_bias(up) is not up_bias:
            return None
        neurons = self.constants[down.input[1]].dims[0]
        fits_cache = MIN_BYTES < 4 * neurons * self.rows.get(start, 0) <= MAX_BYTES
        if neurons < 2 * COLUMNS or not fits_cache or id(residual) in self.residuals:
            return None
        self.residuals.add(id(residual))
        inside = tuple(region.values())[::-1]
        return _FeedForward(up, up_bias, inside, down, down_bias, residual)

    def _following_bias(self, product: Onnx) -> Onnx | None:
        bias = following_bias(product, self.constants, self.consumers)
        return bias[0] if bias else None

    def _start(self, name: str, region: dict[int, Onnx]) -> str | None:
        """Walk back through elementwise nodes to the sum of a product and its bias."""
        node = self.producer.get(name)
        if node is None or node.op_type not in _ELEMENTWISE:
            return None
        if node.op_type == "Add" and any(
            (source := self.producer.get(input_name)) is not None and source.op_type == "MatMul"
            for input_name in node.input
        ):
            return name
        variable_inputs = [
            input_name for input_name in node.input if input_name not in self.constants
        ]
        if any(
            self.constants[input_name].dims
            for input_name in node.input
            if input_name in self.constants
        ):
            return None  # arrays would have to be split too
        region.pop(id(node), None)  # a node with two consumers comes before both
        region[id(node)] = node
        starts = {self._start(input_name, region) for input_name in variable_inputs}
        return starts.pop() if len(starts) == 1 else None

    def _is_closed(self, start: str, region: dict[int, Onnx], down: Onnx) -> bool:
        """Whether the values between the two products have no other consumers."""
        inner_nodes = {*region, id(down)}
        inner_values = [start, *(node.output[0] for node in region.values())]
        return all(
            id(node) in inner_nodes for name in inner_values for node in self.consumers[name]
        )


def _halves(graph: Onnx, layer: _FeedForward) -> list[Onnx]:
    """Return the nodes of both halves and of their sum; the bias is added to the first."""
    from onnx import helper

    values = constants(graph)
    neurons = values[layer.down.input[1]].dims[0]
    boundary = -(-neurons // (2 * COLUMNS)) * COLUMNS
    nodes, sums = [], []
    for part, neuron_slice in enumerate((slice(0, boundary), slice(boundary, None))):
        half = _Half(graph, values, layer.up.input[0], part)
        nodes.append(half.copy(layer.up, slices=(slice(None), neuron_slice)))
        nodes.append(half.copy(layer.up_bias, slices=(neuron_slice,)))
        nodes += [half.copy(node) for node in layer.activation]
        nodes.append(half.copy(layer.down, slices=(neuron_slice,)))
        sums.append(half.name(layer.down.output[0]))
    bias = next(name for name in layer.down_bias.input if name in values)
    residual_input = next(
        name for name in layer.residual.input if name != layer.down_bias.output[0]
    )
    biased, first = f"{layer.down_bias.name}.0", f"{layer.residual.name}.0"
    # The residual input first: 2 % faster per image than adding the halves first.
    return [
        *nodes,
        helper.make_node("Add", [sums[0], bias], [biased], biased),
        helper.make_node("Add", [residual_input, biased], [first], first),
        helper.make_node("Add", [first, sums[1]], layer.residual.output, layer.residual.name),
    ]


@dataclass(frozen=True, slots=True)
class _Half:
    """Creates the copies of a layer's nodes for one half."""

    graph: Onnx
    values: dict[str, Onnx]  # constants by name
    layer_input: str
    part: int

    def name(self, value: str) -> str:
        return f"{value}.{self.part}"

    def copy(self, node: Onnx, slices: tuple[slice, ...] = ()) -> Onnx:
        """Return the node for this half, with constant inputs sliced."""
        from onnx import numpy_helper

        node_copy = type(node)()
        node_copy.CopyFrom(node)
        node_copy.name, node_copy.output[0] = self.name(node.name), self.name(node.output[0])
        for index, name in enumerate(node.input):
            if name in self.values and slices:
                array = numpy_helper.to_array(self.values[name])[slices]
                node_copy.input[index] = f"{node_copy.name}.{index}"
                add_constant(self.graph, node_copy.input[index], array)
            elif name not in self.values and name != self.layer_input:
                node_copy.input[index] = self.name(name)
        return node_copy


def _rows(value: Onnx) -> int:
    """Return L of ``[B, L, N]``; 0 if it is dynamic, as for texts."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[1].dim_value) if len(dims) == 3 else 0
