"""Text tower whose output depends on padding: SigLIP, CLIPA, MobileCLIP S0 to S4, CoCa."""

from __future__ import annotations

import torch
from torch import Tensor

from tinyclip_edge.inheritance.text_part import text_part, text_setting
from tinyclip_export.towers.blocks import OpenClip, TextParts, unit_norm
from tinyclip_export.towers.causal_mask import DEEP, SpecialIds, causal_mask

POOLS = ("first", "last", "argmax", "eos")


class FixedLengthTextTower(TextParts):
    """Text encoder, ``input_ids [B, context]`` int64 to unit-norm ``[B, D]``.

    Its tokens attend to the padding, or it pools the last token, so texts must be padded to the
    context length as in training. A class token, if any, is appended and pooled.
    """

    mask: Tensor | None

    def __init__(self, model: OpenClip, example: Tensor | None = None) -> None:
        super().__init__(model)
        text = text_part(model)
        self.pool = "last" if has_class_token(text) else str(text_setting(text, "pool_type"))
        self.eot_id = int(text_setting(text, "eos_id") or 0)
        mask = None
        self.pad_id = int(getattr(text, "pad_id", 0))
        if text.attn_mask is not None and self.class_token is not None:
            future = torch.ones_like(text.attn_mask, dtype=torch.bool).triu(1)
            mask = torch.zeros_like(text.attn_mask).masked_fill(future, DEEP)
        elif text.attn_mask is not None:
            special_ids = SpecialIds.of(self.tokens.num_embeddings, example, None)
            mask = causal_mask(self.tokens, self.positions, self.blocks, special_ids)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode token ids ``[B, L]``, padding included, to ``[B, D]`` of unit norm."""
        x, mask = self.tokens(input_ids), self.mask
        if self.class_token is not None:
            x = torch.cat([x, self.class_token.expand(x.shape[0], 1, -1)], dim=1)
            padding = self._padding(input_ids, x)
            mask = padding if mask is None else padding + mask
        x = x + self.positions
        for block in self.body:
            x = block(x, mask)
        # In the last block, only the pooled token is a query.
        if self.pool in ("first", "last"):
            is_first = self.pool == "first"
            query = x[:, :1] if is_first else x[:, -1:]
            rows = slice(0, 1) if is_first else slice(-1, None)
            mask = None if mask is None else mask[..., rows, :]
        else:
            # int32: some runtimes have no ArgMax for int64.
            ids = input_ids.to(torch.int32)
            end = (ids if self.pool == "argmax" else (ids == self.eot_id).to(torch.int32)).argmax(1)
            query = x.gather(1, end.view(-1, 1, 1).expand(-1, -1, x.shape[2]))
            mask = None if self.mask is None else self.mask[end].view(-1, 1, 1, x.shape[1])
        pooled = self.last(x, mask, query)[:, 0]
        return unit_norm(self.projection(self.ln_final(pooled)))

    def _padding(self, input_ids: Tensor, x: Tensor) -> Tensor:
        """Return the mask ``[B, 1, L, L]`` of padding, for texts with a class token.

        As in open_clip and in CoCa's training, the mask has the class token's place at the front,
        although the token is appended: a token is hidden if the one before it is padding.
        """
        hidden = (input_ids == self.pad_id).to(x.dtype) * DEEP
        hidden = torch.cat([torch.zeros_like(hidden[:, :1]), hidden], dim=1)
        return hidden[:, None, None].expand(-1, -1, x.shape[1], -1)


def has_class_token(text: OpenClip) -> bool:
    """Whether a text transformer appends a class token to its texts, which is then pooled."""
    return getattr(text, "cls_emb", None) is not None
