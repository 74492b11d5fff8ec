"""What the transformers library says, in the words of its versions 4 and 5 alike."""

from __future__ import annotations

from typing import Any

import transformers

# Version 5 resizes tensors with torchvision; only the class of the other name still uses Pillow.
PillowProcessor: Any = getattr(
    transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor
)
# Version 4 had the reverse.
TensorProcessor: Any = (
    transformers.CLIPImageProcessor
    if hasattr(transformers, "CLIPImageProcessorPil")
    else transformers.CLIPImageProcessorFast
)


def embedding(output: Any) -> Any:
    """The tensor ``[N, D]`` of get_text_features and its like, which version 5 wraps."""
    return getattr(output, "pooler_output", output)
