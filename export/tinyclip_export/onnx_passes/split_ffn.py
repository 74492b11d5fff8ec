"""Feed-forward layers in two halves, whose neurons stay in the second-level cache.

A feed-forward layer is a sum over its neurons, so half of them can be done after the other half:
``down(act(up(x))) = down_0(act(up_0(x))) + down_1(act(up_1(x)))``. For one thread that pays where
the neurons of a picture fill that cache and half of them do not; several threads pay more for
meeting at twice as many nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from tinyclip_export.onnx_passes.graph_utils import (
    add_constant,
    bias_behind,
    constants,
    known_values,
    only_reader,
    producers,
    readers,
    replace_nodes,
)

Onnx: TypeAlias = Any  # a message of onnx, which has no types

# Bytes of a picture's neurons in float32: below, all fit beside what reads and writes them; above,
# halves do not either.
LEAST, MOST = 512 * 1024, 1024 * 1024
COLUMNS = 32  # of a tile in the integer kernels
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
    """Split the feed-forward layers of an fp32 tower; return the new names of each product."""
    graph = model.graph
    finder = _Finder(model)
    found = [layer for node in graph.node if (layer := finder.layer(node)) is not None]
    gone = {
        id(node)
        for one in found
        for node in (one.up, one.up_bias, *one.activation, one.down, one.down_bias)
    }
    made = {id(one.residual): _halves(graph, one) for one in found}
    nodes = []
    for node in graph.node:
        nodes += made.get(id(node), [] if id(node) in gone else [node])
    replace_nodes(graph, nodes)
    return {
        str(node.name): [f"{node.name}.{part}" for part in (0, 1)]
        for one in found
        for node in (one.up, one.down)
    }


class _Finder:
    """Looks for feed-forward layers of the right size."""

    def __init__(self, model: Onnx) -> None:
        graph = model.graph
        self.constants = constants(graph)
        self.producer, self.readers = producers(graph), readers(graph)
        self.residuals: set[int] = set()  # of layers found: a sum of two layers has only one
        self.rows = {value.name: _rows(value) for value in known_values(model)}

    def layer(self, down: Onnx) -> _FeedForward | None:
        """Return the layer whose second product this is, or None."""
        down_bias = self._bias_behind(down)
        residual = down_bias and only_reader(self.readers, down_bias.output[0], "Add")
        region: dict[int, Onnx] = {}
        start = self._start(down.input[0], region) if residual is not None else None
        if start is None or not region or not self._is_closed(start, region, down):
            return None
        up_bias = self.producer[start]
        up = next(node for name in up_bias.input if (node := self.producer.get(name)) is not None)
        if self._bias_behind(up) is not up_bias:
            return None
        neurons = self.constants[down.input[1]].dims[0]
        fits = LEAST < 4 * neurons * self.rows.get(start, 0) <= MOST
        if neurons < 2 * COLUMNS or not fits or id(residual) in self.residuals:
            return None
        self.residuals.add(id(residual))
        inside = tuple(region.values())[::-1]
        return _FeedForward(up, up_bias, inside, down, down_bias, residual)

    def _bias_behind(self, product: Onnx) -> Onnx | None:
        found = bias_behind(product, self.constants, self.readers)
        return found[0] if found else None

    def _start(self, name: str, region: dict[int, Onnx]) -> str | None:
        """Walk back over elementwise nodes to the sum of a product and its bias."""
        node = self.producer.get(name)
        if node is None or node.op_type not in _ELEMENTWISE:
            return None
        if node.op_type == "Add" and any(
            (source := self.producer.get(side)) is not None and source.op_type == "MatMul"
            for side in node.input
        ):
            return name
        given = [side for side in node.input if side not in self.constants]
        if any(self.constants[side].dims for side in node.input if side in self.constants):
            return None  # an array would have to be cut too
        region.pop(id(node), None)  # what is read twice stands before both readers
        region[id(node)] = node
        starts = {self._start(side, region) for side in given}
        return starts.pop() if len(starts) == 1 else None

    def _is_closed(self, start: str, region: dict[int, Onnx], down: Onnx) -> bool:
        """Whether nothing else reads what lies between the two products."""
        inside = {*region, id(down)}
        between = [start, *(node.output[0] for node in region.values())]
        return all(id(node) in inside for name in between for node in self.readers[name])


def _halves(graph: Onnx, layer: _FeedForward) -> list[Onnx]:
    """Return the nodes of both halves and of their sum; the first has the bias behind it."""
    from onnx import helper

    values = constants(graph)
    neurons = values[layer.down.input[1]].dims[0]
    middle = -(-neurons // (2 * COLUMNS)) * COLUMNS
    nodes, sums = [], []
    for part, cut in enumerate((slice(0, middle), slice(middle, None))):
        half = _Half(graph, values, layer.up.input[0], part)
        nodes.append(half.copy(layer.up, cut=(slice(None), cut)))
        nodes.append(half.copy(layer.up_bias, cut=(cut,)))
        nodes += [half.copy(node) for node in layer.activation]
        nodes.append(half.copy(layer.down, cut=(cut,)))
        sums.append(half.name(layer.down.output[0]))
    bias = next(name for name in layer.down_bias.input if name in values)
    before = next(name for name in layer.residual.input if name != layer.down_bias.output[0])
    biased, first = f"{layer.down_bias.name}.0", f"{layer.residual.name}.0"
    # What goes past the layer first: quicker by 2 % of an image than the sum of halves first.
    return [
        *nodes,
        helper.make_node("Add", [sums[0], bias], [biased], biased),
        helper.make_node("Add", [before, biased], [first], first),
        helper.make_node("Add", [first, sums[1]], layer.residual.output, layer.residual.name),
    ]


@dataclass(frozen=True, slots=True)
class _Half:
    """Copies of a layer's nodes for one half."""

    graph: Onnx
    values: dict[str, Onnx]  # its constants
    given: str  # what the layer reads
    part: int

    def name(self, value: str) -> str:
        return f"{value}.{self.part}"

    def copy(self, node: Onnx, cut: tuple[slice, ...] = ()) -> Onnx:
        """Return the node for this half; an array among its inputs is cut."""
        from onnx import numpy_helper

        made = type(node)()
        made.CopyFrom(node)
        made.name, made.output[0] = self.name(node.name), self.name(node.output[0])
        for index, name in enumerate(node.input):
            if name in self.values and cut:
                array = numpy_helper.to_array(self.values[name])[cut]
                made.input[index] = f"{made.name}.{index}"
                add_constant(self.graph, made.input[index], array)
            elif name not in self.values and name != self.given:
                made.input[index] = self.name(name)
        return made


def _rows(value: Onnx) -> int:
    """Return L of ``[B, L, N]``; zero where it is not known beforehand, as with texts."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[1].dim_value) if len(dims) == 3 else 0
