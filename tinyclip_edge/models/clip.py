"""A CLIP in memory: network, config, preprocessing, tokenizer, and facts about its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

PREFIXES = "matryoshka_dimensions"  # key of LoadedClip.config, see tinyclip_edge.models.prefixes


@dataclass(slots=True)
class LoadedClip:
    """One CLIP, ready to run: float32, eval mode."""

    model: nn.Module  # open_clip.CLIP or CustomTextCLIP
    config: dict[str, Any]  # content of open_clip_config.json
    preprocess: Callable[[Image.Image], Tensor]  # float32 [3, H, W]
    tokenizer: Callable[[Sequence[str]], Tensor]  # int64 [N, context_length]
    name: str
    tokenizer_file: Path | None = None  # tokenizer.json beside the weights
    weights_file: Path | None = None

    @property
    def image_size(self) -> int:
        """Pixels of the square input."""
        size = self.config["model_cfg"]["vision_cfg"].get("image_size", 224)
        return int(size[0] if isinstance(size, (list, tuple)) else size)

    @property
    def embedding_dim(self) -> int:
        """Width of the shared space."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def context_length(self) -> int:
        """Tokens a text is cut to, start and end included."""
        return int(self.config["model_cfg"]["text_cfg"].get("context_length", 77))

    @property
    def vocabulary(self) -> int:
        """Rows of the token table."""
        table = token_table(self.model)
        return 0 if table is None else table.num_embeddings

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Lengths of embedding prefixes that the model was trained for, besides the full length."""
        return tuple(self.config.get(PREFIXES, ()))

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities before softmax, already exponentiated."""
        scale: Tensor = self.model.get_parameter("logit_scale")
        return float(scale.detach().exp().item())

    @property
    def logit_bias(self) -> float | None:
        """Bias added to each label's logit before SigLIP's sigmoid; None in a softmax model."""
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else float(bias.detach().item())


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters of a CLIP; the three groups and the scales add up to the model."""

    image: int
    text: int  # without the token embedding
    token_embedding: int
    logit_scale: int  # and logit_bias, where there is one

    @property
    def encoders(self) -> int:
        """Both towers without the token embedding: what a query costs to compute."""
        return self.image + self.text

    @property
    def total(self) -> int:
        """Every parameter of the model."""
        return self.encoders + self.token_embedding + self.logit_scale


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of an open_clip CLIP by tower; works on the meta device."""
    image = text = token = scale = 0
    table = token_table(model)
    tokens = None if table is None else table.weight
    for name, parameter in model.named_parameters():
        if name.startswith("visual."):
            image += parameter.numel()
        elif name in ("logit_scale", "logit_bias"):
            scale += parameter.numel()
        elif parameter is tokens:
            token += parameter.numel()
        else:
            text += parameter.numel()
    return ParameterCount(image, text, token, scale)


def token_table(model: nn.Module) -> nn.Embedding | None:
    """Return the token embedding of a text tower, open_clip's or transformers'; None without one.

    Positions and token types are not part of it.
    """
    text: Any = getattr(model, "text", model)
    table = getattr(text, "token_embedding", None)
    if table is None:
        encoder: Any = getattr(text, "transformer", None)
        table = getattr(encoder, "embed_tokens", None)  # M2M-100's, which transformers 4 hides
        if table is None and hasattr(encoder, "get_input_embeddings"):
            table = encoder.get_input_embeddings()
    return table if isinstance(table, nn.Embedding) else None


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 over sorted (key, shape, float32 bytes): the same on every device."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
