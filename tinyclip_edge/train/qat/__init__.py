"""Quantization-aware fine-tuning of a student."""
