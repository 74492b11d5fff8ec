"""Quantization of fp32 towers: recipes, calibration and the graph rewrites that they need."""
