"""Causal mask of a text tower, as deep as the scores of its model ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError

if TYPE_CHECKING:
    from tinyclip_export.towers.blocks import Block

# Additive mask values, both finite, so that neither fp16 nor a calibrated range can make NaN.
# Where a token that may not be seen scores no higher than the best that may, it weighs e^-60 of
# that: nothing in float32, yet no subnormal number, on which x86 spends five times as long in
# Softmax. It would show where the hidden score is 43 higher (e^-17); DEEP hides any.
SHALLOW, DEEP = -60.0, -10_000.0
# Hidden scores of all texts were up to 2.1 times those of the sampled ones in models trained here.
MOST_SAMPLED = 43.0 / 4
TEXTS = 48  # sampled; a third are one word long, as the padding behind short texts scores highest
CHUNK = 2048  # tokens looked up at once


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids around a text's words."""

    start: int
    end: int
    pad: int

    @classmethod
    def of(cls, vocabulary: int, example: Tensor | None, end: int | None) -> Frame:
        """Read it from a text ``[L]`` as the tokenizer pads it, or take that of CLIP's vocabulary.

        `end` is the end of text where a tower knows its id. Raises ModelError for one without a
        token.
        """
        if end is not None and not 0 <= end < vocabulary:
            raise ModelError(f"text_cfg: eos_id {end} has no token; there are {vocabulary}")
        if example is None:
            return cls(max(vocabulary - 2, 0), vocabulary - 1 if end is None else end, 0)
        highest = int(example.max())
        return cls(int(example[0]), highest if end is None else end, int(example[-1]))


def causal_mask(
    tokens: nn.Embedding, positions: Tensor, blocks: Sequence[Block], frame: Frame
) -> Tensor:
    """Return ``[L, L]``: zero for what a token may see, a low value for what comes after it.

    Scores decide which: of sampled texts in all blocks, and of every token in the first, where
    they are highest. Takes positions ``[L, W]``.
    """
    context = positions.shape[0]
    future = torch.ones(context, context, dtype=torch.bool).triu(1)
    deep = torch.zeros(context, context).masked_fill(future, DEEP)
    with torch.no_grad():
        x = tokens(_sampled_ids(tokens.num_embeddings, context, frame)) + positions
        hidden = _of_every_token(tokens, positions, blocks[0], frame)
        for block in blocks:
            hidden = max(hidden, _most_hidden(block, x))
            x = block(x, deep)
    value = SHALLOW if hidden < MOST_SAMPLED else DEEP
    return torch.zeros(context, context).masked_fill(future, value)


def _most_hidden(block: Block, x: Tensor) -> float:
    """Return by how much a later token scores above the best that may be seen, at most."""
    scores = block.scores(x)  # [B, H, L, L]
    if scores is None or scores.shape[-1] < 2:
        return -torch.inf
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    best = scores.masked_fill(future, -torch.inf).amax(-1)
    later = scores.masked_fill(~future, -torch.inf).amax(-1)
    return float((later - best).max())  # the last token has none later: -inf


def _of_every_token(tokens: nn.Embedding, positions: Tensor, block: Block, frame: Frame) -> float:
    """Return the same for texts of one word, every token in turn: start, word, end, padding."""
    length = min(4, positions.shape[0])
    hidden = -torch.inf
    for words in torch.split(torch.arange(tokens.num_embeddings), CHUNK):
        ids = torch.full((len(words), 4), frame.pad)
        ids[:, 0], ids[:, 1], ids[:, 2] = frame.start, words, frame.end
        hidden = max(hidden, _most_hidden(block, tokens(ids[:, :length]) + positions[:length]))
    return hidden


def _sampled_ids(vocabulary: int, context: int, frame: Frame) -> Tensor:
    """Draw ids ``[B, L]``: texts of one word and of all lengths, padded."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (TEXTS, context), generator=draw)
    ids[:, 0] = frame.start
    shortest = min(2, context - 1)
    ends = torch.linspace(shortest, context - 1, TEXTS).long()
    ends[: TEXTS // 3] = shortest
    places = torch.arange(context)
    ids[places == ends.unsqueeze(1)] = frame.end
    ids[places > ends.unsqueeze(1)] = frame.pad
    return ids
