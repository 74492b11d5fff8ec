"""Arrange QuantizeLinear and DequantizeLinear so that onnxruntime makes them integer operators.

onnxruntime 1.32 creates QLinearConv and MatMulIntegerToFloat only for an operator with its own
QuantizeLinear. Operators that share one (a residual block's first convolution and the sum around
the block; queries, keys and values) stay float, and their weights are dequantized at each call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any, TypeAlias

import numpy as np

from tinyclip_export.onnx_passes.graph_utils import constants, consumers, producers, replace_nodes

Onnx: TypeAlias = Any  # a message of onnx, which has no types

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def make_fusable(model: Onnx, kinds: Collection[str]) -> None:
    """Give each quantized operator its own input; `kinds` are the types of quantized operators.

    All others read float values where these exist, which is also more accurate.
    """
    graph = model.graph
    _read_floats(graph, kinds)
    _round_once(graph, kinds)
    _remove_unused(graph)
    _separate_pairs(graph, kinds)
    widen_biases(graph, kinds)


def _read_floats(graph: Onnx, kinds: Collection[str]) -> None:
    producer = producers(graph)
    for node in graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE) or _in_integers(node, kinds, producer):
            continue
        for index, name in enumerate(node.input):
            source = _quantizer(producer.get(name), producer)
            if source is None:
                continue
            origin = producer.get(source.input[0])
            # An integer convolution has no float output.
            if origin is None or not _in_integers(origin, {"Conv"} & {*kinds}, producer):
                node.input[index] = source.input[0]


def _round_once(graph: Onnx, kinds: Collection[str]) -> None:
    """Let a Relu between two convolutions read the first one's float output, not its rounded form.

    onnxruntime removes a Relu whose QuantizeLinear starts at zero, and fuses the convolution with
    that QuantizeLinear, so that no range is wasted on values that Relu removes.
    """
    from onnx import numpy_helper

    zeros = constants(graph)
    producer = producers(graph)
    readers_by_value = consumers(graph)
    for node in graph.node:
        source = _quantizer(producer.get(node.input[0]), producer)
        if node.op_type != "Relu" or source is None:
            continue
        origin = producer.get(source.input[0])
        if origin is None or not _in_integers(origin, {"Conv"} & {*kinds}, producer):
            continue
        path = [node]
        while len(readers_by_value[path[-1].output[0]]) == 1 and len(path) < 4:
            path += readers_by_value[path[-1].output[0]]
        if [n.op_type for n in path[1:]] != [QUANTIZE, DEQUANTIZE, "Conv"]:
            continue
        lowest = numpy_helper.to_array(zeros[path[1].input[2]])
        if len(readers_by_value[node.input[0]]) == 1 and lowest == np.iinfo(lowest.dtype).min:
            node.input[0] = source.input[0]


def widen_biases(graph: Onnx, kinds: Collection[str]) -> None:
    """Give biases after products ``[B, L, N]`` or ``[B, H, W, N]`` as many axes in a fixed batch.

    Otherwise onnxruntime fuses a product of known shape and a one-dimensional bias into a Gemm
    before it looks for integer products; that Gemm is float and dequantizes its weights each call.
    """
    from onnx import numpy_helper

    if not graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        return
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    biases = constants(graph)
    producer = producers(graph)
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for product, index in ((node.input[0], 1), (node.input[1], 0)):
            source, bias = producer.get(product), biases.get(node.input[index])
            rank = ranks.get(product, 0)
            if source is None or bias is None or len(bias.dims) != 1 or rank < 3:
                continue
            if source.op_type == "MatMul" and _in_integers(source, kinds, producer):
                widened = numpy_helper.to_array(bias).reshape(*[1] * (rank - 1), -1)
                name = f"{bias.name}_wide_{rank}"
                if name not in biases:
                    biases[name] = numpy_helper.from_array(widened, name)
                    graph.initializer.append(biases[name])
                node.input[index] = name


def _in_integers(node: Onnx, kinds: Collection[str], producer: dict[str, Onnx]) -> bool:
    """Whether a node has one of these types and a quantized weight."""
    if node.op_type not in kinds:
        return False
    dequantize = producer.get(node.input[1])
    if dequantize is None or dequantize.op_type != DEQUANTIZE:
        return False
    return dequantize.input[0] not in producer


def _quantizer(dequantize: Onnx | None, producer: dict[str, Onnx]) -> Onnx | None:
    """Return the QuantizeLinear before a DequantizeLinear; None for weights and other nodes."""
    if dequantize is None or dequantize.op_type != DEQUANTIZE:
        return None
    return producer.get(dequantize.input[0])


def _remove_unused(graph: Onnx) -> None:
    """Remove unused pairs, DequantizeLinear first."""
    for kind in (DEQUANTIZE, QUANTIZE):
        read_values = {name for node in graph.node for name in node.input}
        read_values |= {output.name for output in graph.output}
        remaining = [n for n in graph.node if n.op_type != kind or n.output[0] in read_values]
        replace_nodes(graph, remaining)


def _separate_pairs(graph: Onnx, kinds: Collection[str]) -> None:
    """Insert a separate pair for the second and each further reader of an activation."""
    from onnx import numpy_helper

    scales = constants(graph)
    producer = producers(graph)
    readers_by_value = defaultdict(list)
    for node in graph.node:
        for index, name in enumerate(node.input):
            readers_by_value[name].append((node, index))
    inserted: dict[str, list[Onnx]] = defaultdict(
        list
    )  # a DequantizeLinear's output -> pairs that follow it
    for dequantize in [node for node in graph.node if node.op_type == DEQUANTIZE]:
        source = _quantizer(dequantize, producer)
        if source is None:
            continue
        key, output = source.input[1], dequantize.output[0]
        scale = numpy_helper.to_array(scales[key])
        # A convolution's own pair is fused with it, so further pairs come after that one.
        origin = producer.get(source.input[0])
        from_convolution = origin is not None and _in_integers(
            origin, {"Conv"} & {*kinds}, producer
        )
        separate_readers = readers_by_value[output][1:]
        if from_convolution and separate_readers:
            separate_readers = [
                reader
                for reader in readers_by_value[output]
                if _in_integers(reader[0], kinds, producer)
            ]
        for count, (node, index) in enumerate(separate_readers, start=2):
            # Equal pairs would be merged again, so scales differ by one step of float32.
            scale = np.nextafter(scale, np.float32(np.inf), dtype=np.float32)
            graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{key}_{count}"))
            pair = _copy_pair(source, dequantize, count)
            if from_convolution:
                pair[0].input[0] = output
            inserted[output] += pair
            node.input[index] = pair[1].output[0]
    replace_nodes(graph, [n for node in graph.node for n in (node, *inserted[node.output[0]])])


def _copy_pair(source: Onnx, dequantize: Onnx, count: int) -> list[Onnx]:
    """Return copies of both nodes, with names and a scale that end in `count`."""
    copies = []
    for node in (source, dequantize):
        copy = type(node)()
        copy.CopyFrom(node)
        copy.name, copy.output[0] = f"{node.name}_{count}", f"{node.output[0]}_{count}"
        copy.input[1] = f"{source.input[1]}_{count}"
        copies.append(copy)
    copies[1].input[0] = copies[0].output[0]
    return copies
