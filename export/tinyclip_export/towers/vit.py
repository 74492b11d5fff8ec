"""Image and text tower of a ViT CLIP as exportable modules that share its weights.

Letters in shapes: B batch, L tokens, Q query tokens, W width, H heads, D embedding, S pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.text_part import text_part, text_setting
from tinyclip_export.towers.blocks import (
    AttentionPool,
    Block,
    OpenClip,
    PatchEmbedding,
    TextParts,
    projection_of,
    shared,
    unit_norm,
)
from tinyclip_export.towers.causal_mask import SpecialIds, causal_mask


class ImageTower(nn.Module):
    """ViT image encoder, ``pixel_values [B, 3, S, S]`` to unit-norm ``[B, D]``.

    ``plain``: in operators that all engines have.
    """

    def __init__(self, model: OpenClip, *, plain: bool = False) -> None:
        super().__init__()
        visual = model.visual
        _check_pooling(visual)
        self.patch = PatchEmbedding(visual.conv1, plain=plain)
        self.class_embedding = shared(visual.class_embedding)
        self.positions = shared(visual.positional_embedding)
        self.ln_pre: nn.Module = visual.ln_pre
        *body, last = (Block(block) for block in visual.transformer.resblocks)
        self.body, self.last = nn.ModuleList(body), last
        self.ln_post: nn.LayerNorm = visual.ln_post
        self.projection = projection_of(visual.proj)
        self.attention_pool = (
            None if visual.attn_pool is None else AttentionPool(visual.attn_pool, visual.pool_type)
        )
        self.pools_class_token = visual.pool_type == "tok"
        self.norm_after_pool = bool(visual.final_ln_after_pool)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode normalised pixels ``[B, 3, H, W]`` to ``[B, D]`` of unit norm."""
        x = self.patch(pixel_values)
        class_token = self.class_embedding.view(1, 1, -1).expand(x.shape[0], -1, -1)
        x = self.ln_pre(torch.cat([class_token, x], dim=1) + self.positions)
        for block in self.body:
            x = block(x)
        if self.attention_pool is not None:
            queries = self.ln_post(self.attention_pool(self.last(x)))
            pooled = queries[:, 0] if self.pools_class_token else queries.mean(dim=1)
        elif self.pools_class_token:  # the class token is the only query of the last block
            pooled = self.ln_post(self.last(x, query=x[:, :1])[:, 0])
        elif self.norm_after_pool:
            pooled = self.ln_post(self.last(x)[:, 1:].mean(dim=1))
        else:
            pooled = self.ln_post(self.last(x)[:, 1:]).mean(dim=1)
        return unit_norm(self.projection(pooled))


class TextTower(TextParts):
    """Causal text encoder, ``input_ids [B, L]`` int64 to unit-norm ``[B, D]``, L <= context.

    It pools at the end of text, which later tokens do not affect, so texts need no padding.
    ``plain``: a table marks the end and a product pools it, as some engines have neither ArgMax nor
    a lookup by its result; a text without an end has no pooled token.
    """

    mask: Tensor
    marks: Tensor | None

    def __init__(
        self, model: OpenClip, example: Tensor | None = None, *, plain: bool = False
    ) -> None:
        super().__init__(model)
        text = text_part(model)
        self.eot_id = (
            int(text_setting(text, "eos_id")) if text_setting(text, "pool_type") == "eos" else None
        )
        special_ids = SpecialIds.of(self.tokens.num_embeddings, example, self.eot_id)
        mask = causal_mask(self.tokens, self.positions, self.blocks, special_ids)
        self.register_buffer("mask", mask, persistent=False)
        marks = _end_marks(self.tokens, special_ids) if plain else None
        self.register_buffer("marks", marks, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode ids ``[B, L]`` to unit-norm ``[B, D]``; those after the end have no effect."""
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions[:length]
        mask = self.mask[:length, :length]
        for block in self.body:
            x = block(x, mask)
        query, mask_row = self._pooled_token(x, mask, input_ids)
        # In the last block, the end of text is the only query; it attends to what precedes it.
        pooled = self.last(x, mask_row, query)[:, 0]
        return unit_norm(self.projection(self.ln_final(pooled)))

    def _pooled_token(self, x: Tensor, mask: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the end of text ``[B, 1, W]`` and its row of the mask, ``[B, 1, 1, L]``."""
        if self.marks is not None:
            at_end = functional.embedding(input_ids, self.marks).transpose(1, 2)  # [B, 1, L]
            return at_end @ x, (at_end @ mask)[:, None]
        # int32: some runtimes have no ArgMax for int64.
        ids = input_ids.to(torch.int32)
        end_scores = ids if self.eot_id is None else (ids == self.eot_id).to(torch.int32)
        end = end_scores.argmax(dim=1).view(-1, 1, 1)
        return x.gather(1, end.expand(-1, -1, x.shape[2])), functional.embedding(end, mask)


def _end_marks(tokens: nn.Embedding, special_ids: SpecialIds) -> Tensor:
    """Return ``[V, 1]``: 1 for the end of text. Raises ModelError if padding has the same id."""
    if special_ids.end == special_ids.pad:
        raise ModelError(
            "the end-of-text token is also the padding, so it cannot be marked; this target needs "
            "a tokenizer with a padding token of its own"
        )
    marks = torch.zeros(tokens.num_embeddings, 1)
    marks[special_ids.end] = 1.0
    return marks


def _check_pooling(visual: OpenClip) -> None:
    if visual.pool_type not in ("tok", "avg"):
        raise ModelError(
            f"image tower {type(visual).__name__} without a pooled embedding cannot be exported: "
            "set attentional_pool: true or false and pool_type: tok or avg in vision_cfg"
        )
