"""EdgeCLIP and its parts: numpy, Pillow, onnxruntime and tokenizers, never torch."""
