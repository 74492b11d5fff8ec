"""Causal mask of a text tower, as deep as the scores of its model ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tinyclip_export.towers import Block

# Additive mask values, both finite, so that neither fp16 nor a calibrated range can make NaN.
# Where a token that may not be seen scores no higher than the best that may, it weighs e^-60 of
# that: nothing in float32, yet no subnormal number, on which x86 spends five times as long in
# Softmax. It would show where the hidden score is 43 higher (e^-17); DEEP hides any.
SHALLOW, DEEP = -60.0, -10_000.0
HIDES = 43.0
TEXTS = 16  # what the scores are looked up on


def causal_mask(
    tokens: Tensor, positions: Tensor, blocks: Sequence[Block], end: int | None
) -> Tensor:
    """Return ``[L, L]``: zero for what a token may see, a low value for what comes after it.

    Scores of sampled texts decide which; SHALLOW only where they stay within half of what it
    hides. Takes token embeddings ``[V, W]``, positions ``[L, W]`` and the id that ends a text.
    """
    context = positions.shape[0]
    future = torch.ones(context, context, dtype=torch.bool).triu(1)
    x = tokens[_sampled_ids(tokens.shape[0], context, end)] + positions
    deep = torch.zeros(context, context).masked_fill(future, DEEP)
    hidden = -torch.inf
    with torch.no_grad():
        for block in blocks:
            hidden = max(hidden, _most_hidden(block, x, future))
            x = block(x, deep)
    value = SHALLOW if hidden < HIDES / 2 else DEEP
    return torch.zeros(context, context).masked_fill(future, value)


def _most_hidden(block: Block, x: Tensor, future: Tensor) -> float:
    """Return by how much a later token scores above the best that may be seen, at most."""
    scores = block.scores(x)
    if scores is None or future.shape[0] < 2:
        return -torch.inf
    best = scores.masked_fill(future, -torch.inf).amax(-1)
    later = scores.masked_fill(~future, -torch.inf).amax(-1)
    return float((later - best).max())  # the last token has none later: -inf


def _sampled_ids(vocabulary: int, context: int, end: int | None) -> Tensor:
    """Draw ids ``[B, L]``: texts of all lengths, zeros behind their end as a tokenizer pads."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (TEXTS, context), generator=draw)
    last = vocabulary - 1 if end is None else end
    ids[:, 0] = max(vocabulary - 2, 0)
    ends = torch.linspace(min(2, context - 1), context - 1, TEXTS).long()
    places = torch.arange(context)
    ids[places == ends.unsqueeze(1)] = last
    ids[places > ends.unsqueeze(1)] = 0
    return ids
