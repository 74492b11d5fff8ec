"""ONNX's check of a file in which onnxruntime's names stand for ONNX's newer ones."""

import onnx


def check_standard(model):
    """Raise unless the model is valid once its RMS norms have ONNX's name, which came later."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == "SimplifiedLayerNormalization":
            node.op_type, copy.opset_import[0].version = "RMSNormalization", 23
    onnx.checker.check_model(copy)
