"""Run transformers' text encoders from their tensors, masked or pruned.

Shapes: B batch, L tokens, W hidden channels, A heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tinyclip_edge.inheritance.encoder_settings import TRUNK, EncoderSettings
from tinyclip_edge.inheritance.gates import TowerMasks
from tinyclip_edge.inheritance.prune import open_units
from tinyclip_edge.inheritance.tensor_tower import Tensors, blocks_of, linear, norm


def look_up(table: Tensor, ids: Tensor, masks: TowerMasks | None) -> Tensor:
    """Look up rows ``[B, L, W]`` of a whole token table, and mask them."""
    words = F.embedding(ids, table)
    if masks is None:
        return words
    on = open_units(masks.hidden)
    return (words.index_select(2, on) * masks.hidden[on]).to(words.dtype)


def run_text(
    tensors: Tensors,
    settings: EncoderSettings,
    ids: Tensor,
    masks: TowerMasks | None = None,
    *,
    recompute: bool = False,
) -> Tensor:
    """Return the features ``[B, embedding]`` of ids ``[B, L]``, not normalised."""
    trunk = {k.removeprefix(TRUNK): t for k, t in tensors.items() if k.startswith(TRUNK)}
    words = look_up(trunk[settings.layout.tokens], ids, masks)
    hidden = run_encoder(trunk, settings, words, ids, recompute=recompute)
    if settings.pool == "mean":
        is_word = ids.ne(settings.pad_id).to(hidden.dtype)[:, :, None]
        pooled = (hidden * is_word).sum(dim=1) / is_word.sum(dim=1)
    else:
        pooled = hidden[:, 0] if settings.pool == "first" else run_pooler(trunk, hidden)
    if "proj.weight" in tensors:
        return linear(tensors, "proj", pooled)
    if "proj.0.weight" in tensors:
        return linear(tensors, "proj.2", F.gelu(linear(tensors, "proj.0", pooled)))
    normed = norm(tensors, "proj.norm", pooled, settings.projection_eps)
    return linear(tensors, "proj.linear", normed)


def run_pooler(trunk: Tensors, hidden: Tensor) -> Tensor:
    """Return the output ``[B, W]`` of BERT's pooler for ``[B, L, W]``."""
    return torch.tanh(linear(trunk, "pooler.dense", hidden[:, 0]))


def run_encoder(
    trunk: Tensors,
    settings: EncoderSettings,
    words: Tensor,
    ids: Tensor,
    *,
    recompute: bool = False,
) -> Tensor:
    """Return the last hidden state ``[B, L, W]`` of looked-up tokens; keys as in the encoder."""
    layout, is_word = settings.layout, ids.ne(settings.pad_id)
    x = words * settings.token_scale if settings.token_scale != 1.0 else words
    if layout.positions:
        table = trunk[layout.positions].to(x.dtype)
        if settings.counts_positions:  # padding has a position of its own
            ones = is_word.long()
            x = x + F.embedding(ones.cumsum(1) * ones + settings.pad_id, table)
        else:
            x = x + table[: ids.shape[1]]
    if layout.types:
        x = x + trunk[layout.types][0].to(x.dtype)
    x = _norm(trunk, layout.first_norm, x, settings)
    mask = torch.zeros_like(is_word, dtype=x.dtype)
    mask = mask.masked_fill(~is_word, torch.finfo(x.dtype).min)[:, None, None]
    prefix = layout.kind.blocks.removeprefix(TRUNK)
    for block in blocks_of(trunk, prefix, settings.layers):
        run: Callable[[Tensor, Tensor], Tensor] = partial(run_block, block, settings)
        if recompute and torch.is_grad_enabled():
            x = checkpoint(run, x, mask, use_reentrant=False)
        else:
            x = run(x, mask)
    return _norm(trunk, layout.last_norm, x, settings)


def run_block(block: Tensors, settings: EncoderSettings, x: Tensor, mask: Tensor) -> Tensor:
    """Map ``[B, L, W]`` to ``[B, L, W]``; ``mask [B, 1, 1, L]`` is added to the scores.

    A half without heads or neurons only adds its bias, if it has one.
    """
    layout = settings.layout
    halves = ((layout.attention[-1], _attend), (layout.down, _activate))
    for (out, inner), name in zip(halves, layout.norms, strict=True):
        normed = _norm(block, name, x, settings) if layout.normed_first else x
        if f"{out}.weight" in block:
            x = x + linear(block, out, inner(block, settings, normed, mask))
        elif f"{out}.bias" in block:
            x = x + block[f"{out}.bias"].to(x.dtype)
        if not layout.normed_first:
            x = _norm(block, name, x, settings)
    return x


def _attend(block: Tensors, settings: EncoderSettings, x: Tensor, mask: Tensor) -> Tensor:
    """Return the heads' outputs ``[B, L, A · D]``."""
    q, k, v = (
        linear(block, name, x).view(*x.shape[:2], -1, settings.head_width).transpose(1, 2)
        for name in settings.layout.attention[:3]
    )
    # In half precision float32's lowest value would be an infinity.
    mask = mask.clamp_min(torch.finfo(q.dtype).min).to(q.dtype)
    scale, shared = None, settings.layout.kind.shared
    if shared:
        mask = mask + relative_bias(block[shared], x.shape[1], settings.max_distance).to(q.dtype)
        scale = 1.0
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return heads.transpose(1, 2).flatten(2)


def _activate(block: Tensors, settings: EncoderSettings, x: Tensor, _: Tensor) -> Tensor:
    """Return the neurons after the activation ``[B, L, I]``."""
    layout = settings.layout
    up = next(name for name in layout.ups if f"{name}.weight" in block)
    neurons: Tensor = settings.activation(linear(block, up, x))
    gated = layout.gate and f"{layout.gate}.weight" in block
    return neurons * linear(block, layout.gate, x) if gated else neurons


def relative_bias(table: Tensor, length: int, max_distance: int) -> Tensor:
    """Return T5's bias ``[1, A, L, L]`` on the scores from a table ``[buckets, A]``."""
    buckets = relative_buckets(length, len(table), max_distance).to(table.device)
    return F.embedding(buckets, table).permute(2, 0, 1)[None]


def relative_buckets(length: int, buckets: int, max_distance: int) -> Tensor:
    """Return the row of T5's table of positions for each query and key, int64 ``[L, L]``.

    One half of the rows is for keys after the query. In each half, short distances have rows of
    their own, and longer ones share rows for exponentially growing ranges.
    """
    place = torch.arange(length)
    offset = place[None, :] - place[:, None]
    half, exact = buckets // 2, buckets // 4
    distance = offset.abs()
    growth = torch.log(distance.clamp_min(1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (half - exact)).long()).clamp_max(half - 1)
    return (offset > 0).long() * half + torch.where(distance < exact, distance, far)


def _norm(tensors: Tensors, name: str, x: Tensor, settings: EncoderSettings) -> Tensor:
    """Apply the norm of this name, if there is one."""
    if settings.layout.centred or f"{name}.weight" not in tensors:
        return norm(tensors, name, x, settings.eps) if name else x
    weight = tensors[f"{name}.weight"]
    squares = x.float().square().mean(dim=-1, keepdim=True)
    return weight * (x * torch.rsqrt(squares + settings.eps)).to(x.dtype)
