"""Count parameters and multiply-accumulates of a model, without weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tinyclip_edge.models.build import build_model
from tinyclip_edge.models.clip import ParameterCount, count_parameters
from tinyclip_edge.models.meta_device import on_meta_device
from tinyclip_edge.models.quiet import quiet
from tinyclip_edge.models.sized_text import is_hf_text


@dataclass(frozen=True, slots=True)
class ModelCost:
    """Parameters, and multiply-accumulates of one picture and of one text of full context."""

    parameters: ParameterCount
    image_macs: int
    text_macs: int


def model_cost(model_cfg: dict[str, Any], source: str) -> ModelCost:
    """Trace both towers on the meta device; ModelError for a config that cannot be built."""
    with on_meta_device():
        model = build_model(model_cfg, source)
    return ModelCost(count_parameters(model), *traced_macs(model, model_cfg))


def traced_macs(model: nn.Module, model_cfg: dict[str, Any]) -> tuple[int, int]:
    """Return the multiply-accumulates of a meta-device model for one picture and one text."""
    size = model_cfg["vision_cfg"].get("image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    length = model_cfg["text_cfg"].get("context_length", 77)
    pixels = torch.empty(1, 3, height, width, device="meta")
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    macs = []
    towers: Any = model
    for encode, argument in ((towers.encode_image, pixels), (text_encoder(towers), ids)):
        counter = FlopCounterMode(display=False)
        # Gradients stay on: without them attention takes a fused path that is not counted.
        with counter:
            encode(argument)
        macs.append(counter.get_total_flops() // 2)
    return macs[0], macs[1]


def text_encoder(model: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401 - of open_clip
    """Return a text encoder that runs on the meta device, where padding cannot be detected."""
    text: Any = getattr(model, "text", None)
    if not is_hf_text(text) or hasattr(text.transformer, "settings"):  # ours runs there unchanged
        encode: Callable[[Tensor], Tensor] = model.encode_text
        return encode

    def encode_unpadded(ids: Tensor) -> Tensor:
        config = text.transformer.config
        padding, config.pad_token_id = config.pad_token_id, None  # transformers 4 looks for it
        try:
            # Attentions as outputs: otherwise transformers 4 reads the mask to see if it is needed.
            with quiet():  # no warning about the slower attention that this selects
                output = text.transformer(input_ids=ids, output_attentions=True)
            features: Tensor = text.proj(text.pooler(output, ids))
        finally:
            config.pad_token_id = padding
        return features

    return encode_unpadded
