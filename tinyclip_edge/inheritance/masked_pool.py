"""Run the attention pool of open_clip's image towers with masks on its input channels.

Queries, keys and values share one matrix if the tower is as wide as the embedding.
Shapes: B batch, L tokens, W channels of the tower, E of the embedding, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Pool: TypeAlias = Any  # open_clip's AttentionalPooler, read by its attribute names
JOINED_POOL = "visual.attn_pool.attn.in_proj_weight"
APART = tuple(f"visual.attn_pool.attn.{part}_proj_weight" for part in "qkv")


def run_pool(pool: Pool, normed: Tensor, take: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return ``[B, Q, E]`` of normed tokens ``[B, L, W]``; ``take`` selects the open channels."""
    attention, queries = pool.attn, pool.ln_q(pool.query)
    weights = (
        attention.in_proj_weight.chunk(3)
        if attention.in_proj_weight is not None
        else (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    )
    biases = attention.in_proj_bias.chunk(3)
    q = F.linear(queries, weights[0], biases[0]).expand(len(normed), -1, -1)
    k, v = (
        F.linear(normed, take(weight, 1), bias)
        for weight, bias in zip(weights[1:], biases[1:], strict=True)
    )
    q, k, v = (x.view(*x.shape[:2], attention.num_heads, -1).transpose(1, 2) for x in (q, k, v))
    heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    out: Tensor = attention.out_proj(heads)
    return out


def with_pool_apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which an attention pool's queries, keys and values are separate."""
    result = dict(state)
    joined = result.pop(JOINED_POOL, None)
    if joined is not None:
        result |= zip(APART, joined.chunk(3), strict=True)
    return result


def with_pool_as(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which an attention pool has the expected form."""
    result = dict(state)
    if JOINED_POOL in expected and APART[0] in result:
        result[JOINED_POOL] = torch.cat([result.pop(key) for key in APART])
    return result
