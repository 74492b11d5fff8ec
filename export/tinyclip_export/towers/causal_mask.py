"""Causal mask of a text tower, with a mask value chosen by the model's attention scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError

if TYPE_CHECKING:
    from tinyclip_export.towers.blocks import Block

# Additive mask values, both finite, so that neither fp16 nor a calibrated range produces NaN.
# With SHALLOW, a future token that scores no higher than the best visible one gets a weight of
# e^-60: negligible in float32, but not subnormal, which would slow down Softmax on x86 five times.
# It would matter if the future score were 43 higher (e^-17); DEEP hides any score.
SHALLOW, DEEP = -60.0, -10_000.0
# In models trained here, the gap over all texts was up to 2.1 times that over the sampled ones.
MAX_SAMPLED_GAP = 43.0 / 4
TEXTS = 48  # sampled; a third have one word, since padding after short texts scores highest
CHUNK = 2048  # tokens evaluated at a time


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of the special tokens around a text."""

    start: int
    end: int
    pad: int

    @classmethod
    def of(cls, vocabulary: int, example: Tensor | None, end_id: int | None) -> SpecialIds:
        """Return the ids in a text ``[L]`` that the tokenizer has padded, or CLIP's without one.

        `end_id` is the end of text if the tower knows it. Raises ModelError if that is outside
        the vocabulary.
        """
        if end_id is not None and not 0 <= end_id < vocabulary:
            raise ModelError(f"text_cfg: eos_id {end_id} has no token; there are {vocabulary}")
        if example is None:
            return cls(max(vocabulary - 2, 0), vocabulary - 1 if end_id is None else end_id, 0)
        highest = int(example.max())
        return cls(int(example[0]), highest if end_id is None else end_id, int(example[-1]))


def causal_mask(
    tokens: nn.Embedding, positions: Tensor, blocks: Sequence[Block], special_ids: SpecialIds
) -> Tensor:
    """Return ``[L, L]``: 0 for visible tokens, a low value for those that come later.

    The value depends on the scores of sampled texts in all blocks, and of every token in the first
    block, where scores are highest. `positions` is ``[L, W]``.
    """
    context = positions.shape[0]
    future = torch.ones(context, context, dtype=torch.bool).triu(1)
    deep = torch.zeros(context, context).masked_fill(future, DEEP)
    with torch.no_grad():
        x = tokens(_sampled_ids(tokens.num_embeddings, context, special_ids)) + positions
        gap = _max_gap_of_words(tokens, positions, blocks[0], special_ids)
        for block in blocks:
            gap = max(gap, _max_future_gap(block, x))
            x = block(x, deep)
    value = SHALLOW if gap < MAX_SAMPLED_GAP else DEEP
    return torch.zeros(context, context).masked_fill(future, value)


def _max_future_gap(block: Block, x: Tensor) -> float:
    """Return the largest excess of a later token's score over the best visible one."""
    scores = block.scores(x)  # [B, H, L, L]
    if scores is None or scores.shape[-1] < 2:
        return -torch.inf
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    visible = scores.masked_fill(future, -torch.inf).amax(-1)
    future_scores = scores.masked_fill(~future, -torch.inf).amax(-1)
    return float((future_scores - visible).max())  # -inf for the last token


def _max_gap_of_words(
    tokens: nn.Embedding, positions: Tensor, block: Block, special_ids: SpecialIds
) -> float:
    """Return the same over texts of one word (start, word, end, padding), for every token."""
    length = min(4, positions.shape[0])
    gap = -torch.inf
    for words in torch.split(torch.arange(tokens.num_embeddings), CHUNK):
        ids = torch.full((len(words), 4), special_ids.pad)
        ids[:, 0], ids[:, 1], ids[:, 2] = special_ids.start, words, special_ids.end
        gap = max(gap, _max_future_gap(block, tokens(ids[:, :length]) + positions[:length]))
    return gap


def _sampled_ids(vocabulary: int, context: int, special_ids: SpecialIds) -> Tensor:
    """Sample padded ids ``[B, L]``: texts of one word and of all lengths."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (TEXTS, context), generator=generator)
    ids[:, 0] = special_ids.start
    shortest = min(2, context - 1)
    ends = torch.linspace(shortest, context - 1, TEXTS).long()
    ends[: TEXTS // 3] = shortest
    positions = torch.arange(context)
    ids[positions == ends.unsqueeze(1)] = special_ids.end
    ids[positions > ends.unsqueeze(1)] = special_ids.pad
    return ids
