"""Run a CLIP with masks on its units; open_clip's modules are read by their attribute names.

Hidden channels that are off are removed before the computation, so LayerNorm covers only the
remaining ones, and steps get cheaper as channels close. Factors are folded into the weights that
produce a unit's output, once for all tokens. Shapes: B batch, L tokens, W open hidden channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyclip_edge.inheritance.dense import attend
from tinyclip_edge.inheritance.encoder_settings import EncoderSettings, is_encoder
from tinyclip_edge.inheritance.gates import ClipMasks, TowerMasks
from tinyclip_edge.inheritance.maskable import check_maskable
from tinyclip_edge.inheritance.masked_encoder import run_text
from tinyclip_edge.inheritance.masked_fastvit import is_fastvit, masked_neurons, run_with
from tinyclip_edge.inheritance.masked_pool import run_pool
from tinyclip_edge.inheritance.masked_resnet import is_resnet, masked_bottlenecks
from tinyclip_edge.inheritance.masked_timm import STEM, TimmSettings, run_tower
from tinyclip_edge.inheritance.tensor_tower import masked_tensors
from tinyclip_edge.inheritance.text_part import text_part, text_setting
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS
from tinyclip_edge.inheritance.units import ClipUnits

OpenClip: TypeAlias = Any  # a module of open_clip, or a block of ours with the same names


class MaskedClip(nn.Module):
    """A wrapper around a CLIP (not a copy) that applies the masks passed with each call."""

    def __init__(self, model: nn.Module, units: ClipUnits) -> None:
        super().__init__()
        self.model = model
        self.units = units
        check_maskable(model)
        trunk, text = getattr(model.visual, "trunk", None), text_part(model)
        vit = trunk is not None and not is_fastvit(trunk)
        self._timm = TimmSettings.of(trunk) if vit else None
        self._encoder = EncoderSettings.of(text) if is_encoder(text) else None

    def forward(
        self, images: Tensor, ids: Tensor, masks: ClipMasks | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return image features ``[B, D]``, text features ``[B, D]`` and the scale (no log)."""
        folded = self.fold(masks)
        scale: Tensor = self.model.get_parameter("logit_scale").float().exp()
        return folded.encode_image(images), folded.encode_text(ids), scale

    def fold(self, masks: ClipMasks | None) -> FoldedClip:
        """Fold masks into the weights, with gradients, for several batches under the same masks."""
        return FoldedClip(self.model, self.units, masks, self._timm, self._encoder)

    def encode_image(self, images: Tensor, masks: ClipMasks | None = None) -> Tensor:
        """Return ``[B, D]``, unit norm."""
        return self.fold(masks).encode_image(images)

    def encode_text(self, ids: Tensor, masks: ClipMasks | None = None) -> Tensor:
        """Return ``[B, D]``, unit norm, of ids ``[B, L]``, which may be cut after end tokens."""
        return self.fold(masks).encode_text(ids)


class FoldedClip:
    """Both towers under one set of masks."""

    def __init__(
        self,
        model: OpenClip,
        units: ClipUnits,
        masks: ClipMasks | None,
        timm: TimmSettings | None = None,
        encoder: EncoderSettings | None = None,
    ) -> None:
        self._model, self._units, self._masks = model, units, masks
        self._settings = timm  # of an image tower from timm, unless it is a FastViT
        self._encoder = encoder  # settings of a text tower from transformers
        self._towers: dict[str, _MaskedTower] = {}
        self._tensors: dict[str, Tensor] | None = None
        self._text_tensors: dict[str, Tensor] | None = None

    def encode_image(self, images: Tensor) -> Tensor:
        """Return ``[B, D]``, unit norm."""
        visual = self._model.visual
        if hasattr(visual, "trunk"):
            return F.normalize(self._timm_features(images).float(), dim=-1)
        if is_resnet(visual):
            if self._tensors is None:
                masks = None if self._masks is None else self._masks.image
                self._tensors = masked_bottlenecks(visual, masks)
            return F.normalize(run_with(visual, self._tensors, images).float(), dim=-1)
        tower = self._tower("image")
        patch = tower.take(visual.conv1.weight, 0)
        x = F.conv2d(images, patch, stride=visual.conv1.stride).flatten(2).transpose(1, 2)
        class_token = tower.take(visual.class_embedding, 0).expand(len(x), 1, -1).to(x.dtype)
        x = torch.cat([class_token, x], dim=1) + tower.take(visual.positional_embedding, 1).to(
            x.dtype
        )
        x = tower.norm(visual.patch_dropout(tower.scale(x)), visual.ln_pre)
        x = tower.blocks(x, None)
        attention = visual.attn_pool
        if attention is not None:  # its outputs have no masks
            normed = tower.norm(x, attention.ln_k)
            queries = visual.ln_post(run_pool(attention, normed, tower.take))
            pooled = queries[:, 0] if visual.pool_type == "tok" else queries[:, 1:].mean(dim=1)
            return F.normalize((pooled @ visual.proj).float(), dim=-1)
        norm_after_pooling = visual.final_ln_after_pool
        x = x if norm_after_pooling else tower.norm(x, visual.ln_post)
        pooled = x[:, 0] if visual.pool_type == "tok" else x[:, 1:].mean(dim=1)
        pooled = tower.norm(pooled, visual.ln_post) if norm_after_pooling else pooled
        return F.normalize((pooled @ tower.take(visual.proj, 0)).float(), dim=-1)

    def _timm_features(self, images: Tensor) -> Tensor:
        visual, masks = self._model.visual, None if self._masks is None else self._masks.image
        if self._settings is None:
            if self._tensors is None:
                self._tensors = masked_neurons(visual, masks)
            return run_with(visual, self._tensors, images)
        if self._tensors is None:
            kind = TOWER_KINDS[self._units.image.kind]
            self._tensors = masked_tensors(visual, kind, self._units.image, masks)
        stem = None
        if self._settings.patch is None:
            of_stem = {
                name.removeprefix(STEM): tensor
                for name, tensor in self._tensors.items()
                if name.startswith(STEM)
            }
            stem = partial(run_with, visual.trunk.patch_embed, of_stem)
        return run_tower(self._tensors, self._settings, images, stem)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Return ``[B, D]``, unit norm."""
        if self._encoder is not None:
            return F.normalize(self._encoded(self._encoder, ids).float(), dim=-1)
        text, tower = text_part(self._model), self._tower("text")
        x = tower.take(text.token_embedding(ids), 2)
        if getattr(text, "cls_emb", None) is not None:  # after the last token, in CoCa
            x = torch.cat([x, tower.take(text.cls_emb, 0).expand(len(x), 1, -1)], dim=1)
        length = x.shape[1]
        x = tower.scale(x + tower.take(text.positional_embedding[:length], 1))
        x = tower.blocks(x, _attention_mask(text, ids, length, x.dtype))
        pooled = tower.norm(_pooled(x, ids, text), text.ln_final)
        projection = text.text_projection
        if isinstance(projection, nn.Linear):
            projected = F.linear(pooled, tower.take(projection.weight, 1), projection.bias)
        else:
            projected = pooled @ tower.take(projection, 0)
        return F.normalize(projected.float(), dim=-1)

    def _encoded(self, settings: EncoderSettings, ids: Tensor) -> Tensor:
        text, units = text_part(self._model), self._units.text
        masks = None if self._masks is None else self._masks.text
        if self._text_tensors is None:
            self._text_tensors = masked_tensors(text, settings.layout.kind, units, masks)
        recompute = any(
            getattr(layer, "gradient_checkpointing", False) for layer in text.transformer.modules()
        )
        return run_text(self._text_tensors, settings, ids, masks, recompute=recompute)

    def _tower(self, name: str) -> _MaskedTower:
        if name not in self._towers:
            masks: TowerMasks | None = getattr(self._masks, name, None)
            module = self._model.visual if name == "image" else text_part(self._model)
            width: int = getattr(self._units, name).head_width
            self._towers[name] = _MaskedTower(module.transformer, masks, width)
        return self._towers[name]


class _MaskedTower:
    """The blocks of one tower with their factors folded in."""

    def __init__(self, transformer: OpenClip, masks: TowerMasks | None, head_width: int) -> None:
        self._transformer = transformer
        self._on: Tensor | None = None  # indices of open channels; None when all are open
        self._factors: Tensor | None = None
        if masks is not None:
            self._select(masks.hidden)
        self._blocks = [
            _Block(
                self,
                block,
                head_width,
                None if masks is None else masks.heads[layer],
                None if masks is None else masks.neurons[layer],
            )
            for layer, block in enumerate(transformer.resblocks)
        ]

    def _select(self, hidden: Tensor) -> None:
        on = hidden.detach().nonzero().flatten()
        # A sample may close all channels: keep one, with factor 0, so that the step can proceed.
        on = on if len(on) else on.new_zeros(1)
        self._on = on if len(on) < len(hidden) else None
        self._factors = self.take(hidden, 0)

    def take(self, tensor: Tensor, axis: int) -> Tensor:
        """Select the open channels along an axis of any tensor."""
        return tensor if self._on is None else tensor.index_select(axis, self._on)

    def scale(self, x: Tensor) -> Tensor:
        """Multiply activations by the channels' factors."""
        return x if self._factors is None else (x * self._factors).to(x.dtype)

    def norm(self, x: Tensor, norm: OpenClip) -> Tensor:
        """Apply a LayerNorm over the channels that are on."""
        if isinstance(norm, nn.Identity):
            return x
        weight, bias = self.take(norm.weight, 0), self.take(norm.bias, 0)
        return F.layer_norm(x, weight.shape, weight, bias, norm.eps).to(x.dtype)

    def write(self, weight: Tensor, factors: Tensor | None) -> Tensor:
        """Fold the factors of inputs and output channels into a weight ``[channels, inputs]``."""
        weight = self.take(weight, 0)
        if factors is not None:
            weight = weight * factors
        return weight if self._factors is None else weight * self._factors.unsqueeze(1)

    def offset(self, bias: Tensor) -> Tensor:
        """Fold the channels' factors into a bias."""
        bias = self.take(bias, 0)
        return bias if self._factors is None else bias * self._factors

    def blocks(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Run all blocks on ``[B, L, W]``."""
        recompute = self._transformer.grad_checkpointing and torch.is_grad_enabled()
        for block in self._blocks:
            x = checkpoint(block, x, mask, use_reentrant=False) if recompute else block(x, mask)
        return x


class _Block:
    def __init__(
        self,
        tower: _MaskedTower,
        block: OpenClip,
        head_width: int,
        heads: Tensor | None,
        neurons: Tensor | None,
    ) -> None:
        self._tower, self._block, self._head_width = tower, block, head_width
        out, down = block.attn.out_proj, block.mlp.c_proj
        self._out_bias, self._down_bias = tower.offset(out.bias), tower.offset(down.bias)
        self._attends, self._forwards = hasattr(out, "weight"), hasattr(down, "weight")
        if self._attends:
            columns = None if heads is None else heads.repeat_interleave(head_width)
            self._in = tower.take(block.attn.in_proj_weight, 1)
            self._out = tower.write(out.weight, columns)
        if self._forwards:
            self._up = tower.take(block.mlp.c_fc.weight, 1)
            self._down = tower.write(down.weight, neurons)

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        block, tower, residual = self._block, self._tower, self._out_bias
        if self._attends:
            normed = tower.norm(x, block.ln_1)
            attention = attend(normed, self._in, block.attn.in_proj_bias, self._head_width, mask)
            residual = F.linear(attention, self._out, self._out_bias)
        x = x + self._layer_scale(residual, block.ls_1)
        residual = self._down_bias
        if self._forwards:
            up = F.linear(tower.norm(x, block.ln_2), self._up, block.mlp.c_fc.bias)
            residual = F.linear(block.mlp.gelu(up), self._down, self._down_bias)
        return x + self._layer_scale(residual, block.ls_2)

    def _layer_scale(self, residual: Tensor, scale: OpenClip) -> Tensor:
        identity = isinstance(scale, nn.Identity)
        return residual if identity else residual * self._tower.take(scale.gamma, 0)


def _attention_mask(text: OpenClip, ids: Tensor, length: int, dtype: torch.dtype) -> Tensor | None:
    """Return the mask added to the scores, ``[L, L]``, or ``[B, L, L]`` if it hides padding."""
    causal: Tensor | None = text.attn_mask
    causal = None if causal is None else causal[:length, :length]
    if getattr(text, "cls_emb", None) is None and not getattr(text, "use_pad_mask", False):
        return causal
    hidden: Tensor = text._build_additive_mask(ids, length, dtype)[:: text.heads]
    return hidden if causal is None else hidden + causal


def _pooled(x: Tensor, ids: Tensor, text: OpenClip) -> Tensor:
    """Return the token ``[B, W]`` that stands for each text."""
    has_class_token = getattr(text, "cls_emb", None) is not None
    pool = "last" if has_class_token else text_setting(text, "pool_type")
    if pool in ("first", "last"):
        return x[:, 0 if pool == "first" else -1]
    scores = ids if pool == "argmax" else ids.eq(text_setting(text, "eos_id")).int()
    return x[torch.arange(len(ids), device=ids.device), scores.argmax(dim=-1)]
