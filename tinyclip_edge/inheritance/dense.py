"""Transformer blocks whose heads and neurons differ from layer to layer, named as open_clip's.

Shapes: B batch, L tokens, W hidden channels, A heads, D head width, I neurons.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Block: TypeAlias = Any  # a residual attention block, read by its attribute names


def attend(
    x: Tensor, weight: Tensor, bias: Tensor | None, head_width: int, mask: Tensor | None
) -> Tensor:
    """Return the heads' outputs, ``[B, L, A·D]``, for stacked q, k, v rows ``[3·A·D, W]``.

    ``mask`` is ``[L, L]``, or ``[B, L, L]`` where each text has its own.
    """
    projected = F.linear(x, weight, bias).view(*x.shape[:2], 3, -1, head_width)
    q, k, v = projected.permute(2, 0, 3, 1, 4)
    if mask is not None:
        mask = (mask[:, None] if mask.ndim == 3 else mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class DenseAttention(nn.Module):
    """Self-attention with any number of heads of one width."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads, self.head_width = heads, head_width
        self.in_proj_weight = nn.Parameter(torch.empty(3 * heads * head_width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * heads * head_width))
        self.out_proj = nn.Linear(heads * head_width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map ``[B, L, W]`` to ``[B, L, W]``; ``mask [L, L]`` is added to the scores."""
        attention = attend(x, self.in_proj_weight, self.in_proj_bias, self.head_width, mask)
        out: Tensor = self.out_proj(attention)
        return out


class Offset(nn.Module):
    """A linear layer without inputs: only the bias remains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))


class DenseBlock(nn.Module):
    """Pre-norm block; a half without heads or neurons only adds its bias.

    Norms, layer scales and activation are those of ``pattern``, a block of the same width.
    """

    def __init__(self, pattern: Block, *, heads: int, neurons: int, head_width: int) -> None:
        super().__init__()
        width = pattern.mlp.c_proj.out_features
        self.attn: nn.Module = nn.Module()
        if heads:
            self.ln_1 = deepcopy(pattern.ln_1)
            self.attn = DenseAttention(width, heads, head_width)
        else:
            self.attn.out_proj = Offset(width)
        self.ls_1, self.ls_2 = deepcopy(pattern.ls_1), deepcopy(pattern.ls_2)
        self.mlp = nn.Module()
        if neurons:
            self.ln_2 = deepcopy(pattern.ln_2)
            self.mlp = nn.Sequential()
            self.mlp.add_module("c_fc", nn.Linear(width, neurons))
            self.mlp.add_module("gelu", deepcopy(pattern.mlp.gelu))
            self.mlp.add_module("c_proj", nn.Linear(neurons, width))
        else:
            self.mlp.c_proj = Offset(width)
        self.heads, self.neurons = heads, neurons

    def get_weight_dtype(self) -> torch.dtype:
        """Return the dtype that open_clip casts token embeddings to."""
        dtype: torch.dtype = self.get_parameter("mlp.c_proj.bias").dtype
        return dtype

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,  # as open_clip calls its blocks; self-attention only
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Map ``[B, L, W]`` to ``[B, L, W]``."""
        if self.heads:
            attention = self.attn(self.ln_1(q_x), attn_mask)
        else:
            attention = self.get_parameter("attn.out_proj.bias")
        x = q_x + self.ls_1(attention)
        feed_forward = (
            self.mlp(self.ln_2(x)) if self.neurons else self.get_parameter("mlp.c_proj.bias")
        )
        out: Tensor = x + self.ls_2(feed_forward)
        return out
