"""Which layers quantization hurts, and what is chosen to stay float."""
