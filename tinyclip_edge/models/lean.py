"""Run open_clip's transformers with less work: the same features from fewer tokens and copies.

The last block computes only the pooled token's query, texts are cut after their end token, and
short texts run in batches apart from long ones. Weights are read by their attribute names from
open_clip's modules, or from our blocks of the same names. Shapes: B batch, L tokens, W hidden
channels, A heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyclip_edge.inheritance.dense import DenseAttention
from tinyclip_edge.inheritance.maskable import END_POOLS

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names
BlockRun: TypeAlias = Callable[[OpenClip, Tensor, Tensor | None, bool], Tensor]

LENGTH_GROUPS = 4  # measured on captions of 3 to 16 tokens: 0.6 of the time of one group
VARIANTS = 64  # of a compiled block, 8 for each width; past its limit torch stops compiling
PARTS = ("ln_1", "ls_1", "ln_2", "ls_2", "mlp")


class LeanTowers:
    """Towers of an open_clip CLIP, shared with it; ``image`` and ``text``: which can run lean."""

    def __init__(self, model: nn.Module) -> None:
        self._model: OpenClip = model
        self.image = _is_plain_vit(getattr(model, "visual", None))
        self.text = can_trim(model)
        self._run: BlockRun = run_block

    def compile(self) -> None:
        """Let torch compile a block; all blocks of a tower share the compiled code."""
        limits: Any = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
        self._run = torch.compile(run_block, dynamic=True)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return ``[B, D]`` of float32 ``[B, 3, H, W]``, not normalised."""
        visual = self._model.visual
        x = visual._embeds(pixels)
        first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        pooled: Tensor = visual.ln_post(self._blocks(visual.transformer, x, first, causal=False))
        return self._projected(pooled, visual.proj)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return ``[B, D]`` of int64 ``[B, L]``, L up to the context length, not normalised."""
        model = self._model
        x = model.token_embedding(tokens).to(model.transformer.get_cast_dtype())
        x = x + model.positional_embedding[: tokens.shape[1]].to(x.dtype)
        if model.text_pool_type == "eos":
            end = tokens.eq(model.text_eos_id).int().argmax(dim=-1)
        else:
            end = tokens.argmax(dim=-1)
        pooled: Tensor = model.ln_final(self._by_length(x, end))
        return self._projected(pooled, model.text_projection)

    def _projected(self, pooled: Tensor, projection: OpenClip) -> Tensor:
        if projection is None:
            return pooled
        linear = isinstance(projection, nn.Linear)
        projected: Tensor = projection(pooled) if linear else pooled @ projection
        return projected

    def _by_length(self, x: Tensor, end: Tensor) -> Tensor:
        """Run short texts in batches of their own on a CPU; on a GPU small batches cost more."""
        transformer = self._model.transformer
        if x.device.type != "cpu" or len(x) < LENGTH_GROUPS:
            return self._blocks(transformer, x, end, causal=True)
        order = end.argsort(stable=True)
        parts = []
        for group in order.chunk(LENGTH_GROUPS):
            length = int(end[group].max()) + 1
            parts.append(self._blocks(transformer, x[group, :length], end[group], causal=True))
        return torch.cat(parts)[order.argsort()]

    def _blocks(self, transformer: OpenClip, x: Tensor, at: Tensor, *, causal: bool) -> Tensor:
        """Return token ``at [B]`` of the last block's output, ``[B, W]``."""
        blocks = list(transformer.resblocks)
        for number, block in enumerate(blocks, 1):
            position = at if number == len(blocks) else None
            run = self._run if _is_plain(block) else run_any_block
            if transformer.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(run, block, x, position, causal, use_reentrant=False)
            else:
                x = run(block, x, position, causal)
        return x


def run_block(block: OpenClip, x: Tensor, at: Tensor | None, causal: bool) -> Tensor:
    """Return a residual attention block's output ``[B, L, W]``, or ``[B, W]`` of token ``at [B]``.

    ``causal``: a token sees only itself and those before it.
    """
    normed, mask = block.ln_1(x), None
    query_tokens = normed
    if at is not None:
        rows = torch.arange(len(x), device=x.device)
        x, query_tokens = x[rows, at][:, None], normed[rows, at][:, None]
        if causal:
            mask = (torch.arange(normed.shape[1], device=x.device) <= at[:, None])[:, None, None]
    heads = _attend(block.attn, query_tokens, normed, mask, causal=causal and at is None)
    x = x + block.ls_1(block.attn.out_proj(heads))
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x if at is None else x[:, 0]


def run_any_block(block: OpenClip, x: Tensor, at: Tensor | None, causal: bool) -> Tensor:
    """Do the same as ``run_block`` with the forward of any block, which computes all queries."""
    mask = None
    if causal:
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, device=x.device).triu(1)
    x = block(x, attn_mask=mask)
    return x if at is None else x[torch.arange(len(x), device=x.device), at]


def _attend(
    attention: OpenClip, query_tokens: Tensor, tokens: Tensor, mask: Tensor | None, *, causal: bool
) -> Tensor:
    """Return attention of ``query_tokens [B, Q, W]`` over ``tokens [B, L, W]``: ``[B, Q, A·D]``."""
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    width = len(weight) // 3
    if query_tokens is tokens:
        qkv = F.linear(tokens, weight, bias)
        q, k, v = qkv.view(*tokens.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    else:
        q = F.linear(query_tokens, weight[:width], bias[:width])
        q = q.view(*query_tokens.shape[:2], attention.num_heads, -1).transpose(1, 2)
        kv = F.linear(tokens, weight[width:], bias[width:])
        kv = kv.view(*tokens.shape[:2], 2, attention.num_heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4)
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return heads.transpose(1, 2).flatten(2)


def can_trim(model: nn.Module) -> bool:
    """Whether the text tower gives the same features without its padding.

    True for open_clip's CLIP: causal attention, pooled at the end token. Other towers (custom
    text) are run at full length.
    """
    mask = getattr(model, "attn_mask", None)
    return (
        isinstance(mask, Tensor)
        and mask.dim() == 2
        and (mask.is_meta or torch.equal(mask.isneginf(), torch.ones_like(mask).triu(1).bool()))
        and getattr(model, "text_pool_type", None) in END_POOLS
        and isinstance(getattr(model, "token_embedding", None), nn.Embedding)
        and getattr(getattr(model, "transformer", None), "batch_first", False)
    )


def _is_plain_vit(visual: OpenClip) -> bool:
    return (
        type(visual).__name__ == "VisionTransformer"
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
        and visual.transformer.batch_first
    )


def _is_plain(block: OpenClip) -> bool:
    """Whether ``block`` is pre-norm, with queries, keys and values in one matrix."""
    attention = getattr(block, "attn", None)
    if isinstance(attention, nn.MultiheadAttention):
        packed = attention.in_proj_weight is not None and attention.in_proj_bias is not None
        simple = packed and attention.bias_k is None and attention.dropout == 0.0
    else:
        simple = isinstance(attention, DenseAttention)
    return simple and not hasattr(block, "ln_1_kv") and all(hasattr(block, p) for p in PARTS)
