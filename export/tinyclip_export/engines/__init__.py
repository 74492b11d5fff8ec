"""Towers in the formats of engines other than onnxruntime, run there before a bundle is done."""
