"""Text tower whose output depends on padding: SigLIP, CLIPA, MobileCLIP S0 to S4."""

from __future__ import annotations

import torch
from torch import Tensor

from tinyclip_edge.inheritance.text_part import text_part, text_setting
from tinyclip_export.towers.blocks import OpenClip, TextParts, unit_norm
from tinyclip_export.towers.causal_mask import SpecialIds, causal_mask

POOLS = ("first", "last", "argmax", "eos")


class FixedLengthTextTower(TextParts):
    """Text encoder, ``input_ids [B, context]`` int64 to unit-norm ``[B, D]``.

    Its tokens attend to the padding, or it pools the last token, so texts must be padded to the
    context length as in training.
    """

    mask: Tensor | None

    def __init__(self, model: OpenClip, example: Tensor | None = None) -> None:
        super().__init__(model)
        text = text_part(model)
        self.pool = str(text_setting(text, "pool_type"))
        self.eot_id = int(text_setting(text, "eos_id") or 0)
        mask = None
        if text.attn_mask is not None:
            special_ids = SpecialIds.of(self.tokens.num_embeddings, example, None)
            mask = causal_mask(self.tokens, self.positions, self.blocks, special_ids)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode token ids ``[B, L]``, padding included, to ``[B, D]`` of unit norm."""
        x = self.tokens(input_ids) + self.positions
        for block in self.body:
            x = block(x, self.mask)
        # In the last block, only the pooled token is a query.
        if self.pool in ("first", "last"):
            is_first = self.pool == "first"
            query = x[:, :1] if is_first else x[:, -1:]
            mask = None if self.mask is None else (self.mask[:1] if is_first else self.mask[-1:])
        else:
            # int32: some runtimes have no ArgMax for int64.
            ids = input_ids.to(torch.int32)
            end = (ids if self.pool == "argmax" else (ids == self.eot_id).to(torch.int32)).argmax(1)
            query = x.gather(1, end.view(-1, 1, 1).expand(-1, -1, x.shape[2]))
            mask = None if self.mask is None else self.mask[end].view(-1, 1, 1, x.shape[1])
        pooled = self.last(x, mask, query)[:, 0]
        return unit_norm(self.projection(self.ln_final(pooled)))
