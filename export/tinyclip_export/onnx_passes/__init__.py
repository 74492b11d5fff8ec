"""Export of fp32 ONNX graphs, and passes that rewrite them."""
