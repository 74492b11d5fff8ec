"""Int8 weights on which no x86 kernel overflows, finer than the usual seven bits.

Without VNNI, x86 multiplies uint8 activations by int8 weights and adds the products of two
neighbouring rows in 16 bits, saturating: 255 * 127 * 2 > 32767. Seven-bit weights avoid it by
halving every weight. But only a pair's sum matters, and the two largest weights of a column are
seldom neighbours: so here each column gets the finest scale at which every pair still fits.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import ModelError
from tinyclip_export.onnx_passes.graph_utils import constants

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types

LARGEST = 127
# Rounding adds at most a half to each weight of a pair: 127 becomes 128, and 255 * 128 < 32767.
LARGEST_PAIR = 127


def pair_safe(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantize ``[K, N]`` to int8 with scales ``[N]`` per column; weight is about int8 * scale."""
    rows, columns = weight.shape
    padded = np.zeros((rows + rows % 2, columns))
    padded[:rows] = weight
    positive, negative = np.maximum(padded, 0.0), np.maximum(-padded, 0.0)
    pairs = np.maximum(positive[0::2] + positive[1::2], negative[0::2] + negative[1::2]).max(axis=0)
    scale = np.maximum(np.abs(padded).max(axis=0) / LARGEST, pairs / LARGEST_PAIR)
    scale[scale == 0.0] = 1.0
    return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)


def make_pair_safe(quantized: ModelProto, source: ModelProto) -> None:
    """Replace the int8 weights in `quantized` by pair-safe ones, from the fp32 graph `source`.

    Raises ModelError when the quantizer's tensors have unexpected names or shapes.
    """
    from onnx import TensorProto, numpy_helper

    floats = constants(source.graph)
    tensors = constants(quantized.graph)
    transposed = _transposed_weights(source.graph)
    for key in _product_weights(quantized.graph, tensors):
        name = key.removesuffix("_quantized")
        origin = floats.get(name, floats.get(name.removesuffix("_Transposed")))
        if origin is None or f"{name}_scale" not in tensors:
            raise ModelError(f"int8: the quantizer made no scale or float weight named {name}")
        integer, scale = tensors[key], tensors[f"{name}_scale"]
        matrix = numpy_helper.to_array(origin)
        # A Gemm's weight keeps its name in old versions of onnxruntime.
        turned = origin.name != name or name in transposed
        weight, scales = pair_safe(matrix.T if turned else matrix)
        tensor_form = (integer.data_type, list(integer.dims), list(scale.dims))
        if tensor_form != (TensorProto.INT8, list(weight.shape), list(scales.shape)):
            raise ModelError(
                f"int8: the quantizer gave {name} another type or shape: {tensor_form}"
            )
        integer.CopyFrom(numpy_helper.from_array(weight, integer.name))
        scale.CopyFrom(numpy_helper.from_array(scales, scale.name))


def _transposed_weights(graph: Any) -> set[str]:  # noqa: ANN401
    """Return the names of weights that only Gemm reads, transposed; it becomes a MatMul."""
    gemms = [node for node in graph.node if node.op_type == "Gemm"]
    names = {n.input[1] for n in gemms if any(a.name == "transB" and a.i for a in n.attribute)}
    return names.difference(n.input[1] for n in graph.node if n.op_type == "MatMul")


def _product_weights(graph: Any, tensors: dict[str, Any]) -> list[str]:  # noqa: ANN401
    """Return the names of integer weights of MatMulInteger, and of MatMul with DequantizeLinear."""
    dequantized = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors
    }
    names = []
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            names.append(node.input[1])
        elif node.op_type == "MatMul" and node.input[1] in dequantized:
            names.append(dequantized[node.input[1]])
    return names
