"""fp32 ONNX files: export, and rewrites of one graph into another."""
