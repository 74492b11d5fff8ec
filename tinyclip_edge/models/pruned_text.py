"""A transformers text encoder whose layers differ in heads and neurons after pruning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance.dense import Offset
from tinyclip_edge.inheritance.encoder_settings import EncoderSettings
from tinyclip_edge.inheritance.masked_encoder import run_encoder, run_pooler
from tinyclip_edge.inheritance.prune import pruned_shape
from tinyclip_edge.inheritance.tower_kind import TowerKind
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS
from tinyclip_edge.inheritance.units import TowerUnits

HFText: TypeAlias = Any  # open_clip's HFTextEncoder or a part of it, read by attributes
Shape: TypeAlias = "tuple[int, ...]"


class PrunedEncoder(nn.Module):
    """A transformers encoder's layers under their own names, run from a table of tensors."""

    def __init__(self, encoder: HFText, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.gradient_checkpointing = False  # recompute activations for the gradient
        for name, layer in encoder.named_children():
            self.add_module(name, layer)

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.get_submodule(self.settings.layout.tokens.removesuffix(".weight"))

    def gradient_checkpointing_enable(self) -> None:
        """Recompute activations instead of storing them, as transformers' own encoders do."""
        self.gradient_checkpointing = True

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> object:
        """Return the encoder's output for ids ``[B, L]``; padding is masked by its id."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        trunk = dict(self.named_parameters()) | dict(self.named_buffers())
        words = F.embedding(input_ids, trunk[self.settings.layout.tokens])
        recompute = self.gradient_checkpointing
        hidden = run_encoder(trunk, self.settings, words, input_ids, recompute=recompute)
        pooled = run_pooler(trunk, hidden) if "pooler.dense.weight" in trunk else None
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


def pruned_text(text: HFText, units: TowerUnits) -> nn.Module:
    """Return open_clip's HFTextEncoder with an encoder of the given units, random weights.

    ``text`` is the unpruned tower, on the meta device. Raises ModelError for units that do not fit
    it.
    """
    try:
        settings = EncoderSettings.of(text)
    except InheritanceError as error:
        raise ModelError(str(error)) from error
    kind = TOWER_KINDS[units.kind]
    if settings.layout.kind is not kind:
        raise ModelError(f"units.text is a {kind.name}, text_cfg describes another encoder")
    if settings.layers != len(units.heads):
        raise ModelError(f"units.text has {len(units.heads):,} layers, text_cfg {settings.layers}")
    if kind.shared:
        _share(text, kind)
    for path, layer in list(text.named_modules()):
        for name in layer._non_persistent_buffers_set.copy():  # unused here
            delattr(layer, name)
        shapes = dict(_shapes(layer, path, kind, units))
        if shapes:
            _resize(text, path, layer, shapes)
    text.transformer = PrunedEncoder(text.transformer, settings)
    built: nn.Module = text
    return built


def _share(text: HFText, kind: TowerKind) -> None:
    """Give every layer its own table of positions; unpruned layers share the first one's."""
    path, _, name = kind.shared.removesuffix(".weight").rpartition(".")
    blocks = text.get_submodule(kind.blocks.rstrip("."))
    table: Any = blocks[0].get_submodule(path).get_submodule(name)
    for block in list(blocks)[1:]:
        own = nn.Embedding(table.num_embeddings, table.embedding_dim, device="meta")
        setattr(block.get_submodule(path), name, own)


def _shapes(
    layer: nn.Module, path: str, kind: TowerKind, units: TowerUnits
) -> Iterator[tuple[str, Shape | None]]:
    """Yield the shape of each tensor of a layer after a prune, None if it is gone."""
    own = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
    for name, tensor in own.items():
        place = kind.locate(f"{path}.{name}", "")
        if place is None:
            raise ModelError(f"'text.{path}.{name}' does not belong to a pruned {kind.name}")
        yield name, pruned_shape(place, tensor.shape, units)


def _resize(text: nn.Module, path: str, layer: Any, shapes: dict[str, Shape | None]) -> None:  # noqa: ANN401
    """Give a layer tensors of other shapes; a layer that loses its weight keeps its bias."""
    parent, _, name = path.rpartition(".")
    owner = text.get_submodule(parent)
    bias = shapes.get("bias")
    if "weight" in shapes and shapes["weight"] is None:
        setattr(owner, name, nn.Identity() if bias is None else Offset(bias[0]))
        return
    for key, shape in shapes.items():
        assert shape is not None
        value = torch.ones(shape) if "norm" in path.lower() else torch.randn(shape) * 0.02
        if key in layer._buffers:
            layer.register_buffer(key, value)
        else:
            layer.register_parameter(key, nn.Parameter(value))
    weight = shapes.get("weight")
    if isinstance(layer, nn.Linear) and weight is not None:
        layer.out_features, layer.in_features = weight
    elif isinstance(layer, nn.Embedding) and weight is not None:
        layer.num_embeddings, layer.embedding_dim = weight
    elif isinstance(layer, nn.LayerNorm) and weight is not None:
        layer.normalized_shape = weight
