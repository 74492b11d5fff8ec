"""Quantization-aware finishing of a student."""
