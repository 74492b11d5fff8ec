"""Towers in the formats of other engines than onnxruntime, run there before a bundle is done."""
