"""What the engine of each target supports: operators, element types, shapes.

A target without an entry runs in onnxruntime's own kernels, which support everything exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRules:
    """What an engine supports; everything else would run elsewhere, or not at all."""

    operators: Mapping[str, frozenset[str]]  # domain ("" is ONNX's own) -> names
    source: str  # where the engine's makers list them
    ports: frozenset[str]  # element types of inputs and outputs, as onnx.TensorProto names them
    types: frozenset[str]  # of intermediate values
    constants: frozenset[str]
    opsets: tuple[int, int]  # least and greatest of ONNX's own domain
    rank: int  # the greatest of any value
    static: bool = True  # every shape has to be known
    symmetric: bool = False  # zero points are 0, scales are constants


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Reshape, Slice and reductions have int64 constants in ONNX, which engines read when they compile.
_SHAPES = _names("INT64")

_QNN = EngineRules(
    operators={
        "": _names(
            "Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip "
            "Concat Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu "
            "Equal Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm "
            "GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization "
            "HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu "
            "Less LessOrEqual Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mod Mul "
            "Neg Not Or PRelu Pad Pow QuantizeLinear Reciprocal ReduceL2 ReduceMax ReduceMean "
            "ReduceMin ReduceProd ReduceSum Relu Reshape Resize RMSNormalization Round "
            "ScatterElements ScatterND Sigmoid Sign Sin Slice Softmax Softplus SpaceToDepth Split "
            "Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Where"
        )
    },
    source="onnxruntime-qnn 2.3, docs/execution_providers/QNN-ExecutionProvider.md",
    ports=_names("FLOAT INT32"),
    types=_names("FLOAT UINT8 UINT16 INT32"),
    constants=_names("FLOAT UINT8 UINT16 INT32") | _SHAPES,
    opsets=(13, 22),
    rank=5,
)

_COREML = EngineRules(
    operators={
        # Gather is missing from that list, but supported by the source code (SupportsMLProgram).
        "": _names(
            "Add ArgMax AveragePool Cast Clip Concat Conv ConvTranspose Cos DepthToSpace Ceil Div "
            "Elu Erf Exp Gather GatherND Gemm Gelu GlobalAveragePool GlobalMaxPool GridSample "
            "GroupNormalization HardSigmoid Identity InstanceNormalization LayerNormalization "
            "LeakyRelu MatMul MaxPool Max Mul Pow PRelu Range Reciprocal ReduceSum ReduceMean "
            "ReduceMax Relu Reshape Resize Round Shape Sin Slice Softplus Split Sub Sigmoid "
            "Softmax Sqrt Squeeze Tanh Tile Transpose Unsqueeze"
        )
    },
    source="onnxruntime, tools/ci_build/github/apple/coreml_supported_mlprogram_ops.md",
    ports=_names("FLOAT INT32"),
    types=_names("FLOAT FLOAT16 INT32"),
    constants=_names("FLOAT FLOAT16 INT32") | _SHAPES,
    opsets=(13, 22),
    rank=5,
)

_TENSORRT = EngineRules(
    operators={
        "": _names(
            "Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat "
            "Constant ConstantOfShape Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear "
            "Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu "
            "Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample "
            "GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization "
            "LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul "
            "Max MaxPool Mean Min Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear Reciprocal "
            "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
            "ReduceSumSquare Relu Reshape Resize Round Shape Sigmoid Sign Sin Size Slice Softmax "
            "Softplus Split Sqrt Squeeze Sub Sum Tan Tanh Tile Transpose Unsqueeze Where"
        )
    },
    source="onnx-tensorrt, docs/operators.md of TensorRT 10.15",
    ports=_names("FLOAT INT32 INT64"),
    types=_names("FLOAT FLOAT16 INT8 INT32 INT64 BOOL"),
    constants=_names("FLOAT FLOAT16 INT8 INT32 INT64 BOOL"),
    opsets=(9, 24),
    rank=8,
    symmetric=True,
)

RULES: Mapping[str, EngineRules] = {"qnn": _QNN, "coreml": _COREML, "tensorrt": _TENSORRT}
