"""Text towers from transformers in open_clip: RoBERTa, XLM-R, BERT, mT5, the M2M-100 encoder.

They are written out in the operations of our own towers. Attention ignores padding ids, as in
open_clip's HFTextEncoder, so texts may have any padding or none.
Letters in shapes: B batch, L tokens, Q query tokens, W width, H heads, D embedding.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.masked_encoder import relative_buckets
from tinyclip_edge.models.clip import token_table
from tinyclip_edge.models.sized_text import head_width_of
from tinyclip_export.towers.blocks import Attention, Constant, OpenClip, unit_norm
from tinyclip_export.towers.causal_mask import DEEP
from tinyclip_export.towers.encoder_parts import ENCODER_PARTS, BlockParts

CONTEXT = 77  # for a tower without a limit, if there is no example text
_TANH_GELU = ("NewGELUActivation", "FastGELUActivation", "PytorchGELUTanh", "GELUTanh")


class EncoderBlock(nn.Module):
    """Transformer block that normalises before its layers, or after them."""

    def __init__(self, parts: BlockParts, width: int) -> None:
        super().__init__()
        self.heads = _outputs(parts.attention[0]) // parts.head_width
        self.attention = _attention(parts, self.heads, width)
        self.norm_1, self.norm_2 = parts.norms
        self.neurons = _outputs(parts.up)
        self.up, self.gate = parts.up, parts.gate
        self.activation = _activation(parts.activation)
        if isinstance(parts.down, nn.Linear):
            self.down: nn.Linear | Constant = parts.down
        else:
            self.gate, self.activation = None, nn.Identity()
            self.down = _constant(parts.down, width)
        self.table = parts.table if self.heads else None
        self.normed_first = parts.normed_first

    def forward(self, x: Tensor, mask: Tensor, query: Tensor | None = None) -> Tensor:
        """Return ``[B, L, W]``, or ``[B, Q, W]`` for the tokens of `query` only."""
        residual = x if query is None else query
        if self.normed_first:
            normed = self.norm_1(x)
            queries = normed if query is None else self.norm_1(query)
            x = residual + self.attention(queries, normed, mask)
            return x + self._neurons(self.norm_2(x))
        x = self.norm_1(residual + self.attention(residual, x, mask))
        out: Tensor = self.norm_2(x + self._neurons(x))
        return out

    def _neurons(self, x: Tensor) -> Tensor:
        neurons = self.activation(self.up(x))
        if self.gate is not None:
            neurons = neurons * self.gate(x)
        out: Tensor = self.down(neurons)
        return out


class EncoderTextTower(nn.Module):
    """Text encoder, ``input_ids [B, L]`` int64 to unit-norm ``[B, D]``, L <= context."""

    positions: nn.Parameter | None  # [P, W]
    bias: Tensor | None  # [1, H, context, context], of relative positions
    buckets: Tensor | None  # [context, context], rows of each block's own table of them

    def __init__(self, text: OpenClip, example: Tensor | None = None) -> None:
        super().__init__()
        encoder, model_type = text.transformer, text.config.model_type
        self.pad_id = int(text.config.pad_token_id)
        self.context_length = _context_length(text, example)
        table = token_table(text)
        assert table is not None  # transformers' encoders have one
        self.tokens: nn.Embedding = table
        # The embedding of M2M-100 multiplies the rows that it looks up.
        self.token_scale = float(getattr(self.tokens, "embed_scale", 1.0))
        parts, self.positions, self.embedding_norm, self.ln_final = ENCODER_PARTS[model_type](
            encoder, self.context_length, self.pad_id, head_width_of(text)
        )
        *body, last = (EncoderBlock(each, self.tokens.embedding_dim) for each in parts)
        self.body, self.last = nn.ModuleList(body), last
        self.counts_positions = model_type != "bert"
        bias = buckets = None
        if model_type == "mt5" and hasattr(encoder, "settings"):  # it was pruned
            config, length = text.config, self.context_length
            rows = config.relative_attention_num_buckets
            buckets = relative_buckets(length, rows, config.relative_attention_max_distance)
        elif model_type == "mt5":
            relative = encoder.block[0].layer[0].SelfAttention
            with torch.no_grad():
                bias = relative.compute_bias(self.context_length, self.context_length)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("buckets", buckets, persistent=False)
        self.pools_mean = type(text.pooler).__name__ == "MeanPooler"
        self.pooler = _pooler(text)
        self.projection: nn.Module = text.proj

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode token ids ``[B, L]`` to ``[B, D]`` of unit norm; padding has no effect."""
        length = input_ids.shape[1]
        is_word = input_ids != self.pad_id
        x = self._embedded(input_ids, is_word)
        padding = ((~is_word).to(x.dtype) * DEEP)[:, None, None]
        mask: Tensor
        if self.buckets is not None:
            mask = padding
        elif self.bias is not None:
            mask = padding + self.bias[:, :, :length, :length]
        else:  # onnxruntime's Attention needs a row per query
            mask = padding.expand(-1, -1, length, -1)
        for block in self.body:
            x = block(x, self._biased(mask, block, length))
        mask = self._biased(mask, self.last, length)
        if self.pools_mean:
            words = is_word.to(x.dtype)[:, :, None]
            x = self.ln_final(self.last(x, mask)) * words
            pooled = x.sum(dim=1) / words.sum(dim=1)
        else:  # in the last block, the first token is the only query
            pooled = self.pooler(self.ln_final(self.last(x, mask[:, :, :1], x[:, :1])[:, 0]))
        return unit_norm(self.projection(pooled))

    def _biased(self, mask: Tensor, block: nn.Module, length: int) -> Tensor:
        """Add the bias of a pruned block's own heads to a mask."""
        table = getattr(block, "table", None)
        if self.buckets is None or table is None:
            return mask
        bias = functional.embedding(self.buckets[:length, :length], table.weight)
        return mask + bias.permute(2, 0, 1)[None]

    def _embedded(self, input_ids: Tensor, is_word: Tensor) -> Tensor:
        x = functional.embedding(input_ids, self.tokens.weight)
        if self.token_scale != 1.0:
            x = x * self.token_scale
        if self.positions is not None:
            if self.counts_positions:  # padding has a position of its own
                words = is_word.to(torch.int64)
                x = x + functional.embedding(words.cumsum(1) * words + self.pad_id, self.positions)
            else:
                x = x + self.positions[: input_ids.shape[1]]
        out: Tensor = self.embedding_norm(x)
        return out


def is_encoder_text(text: OpenClip) -> bool:
    """Whether a text tower is from transformers and can be written out here."""
    config = getattr(text, "config", None)
    pooler = type(getattr(text, "pooler", None)).__name__
    return getattr(config, "model_type", "") in ENCODER_PARTS and pooler in _POOLERS


_POOLERS = ("MeanPooler", "ClsPooler", "ClsLastHiddenStatePooler")


def _pooler(text: OpenClip) -> nn.Module:
    """Return the layer after the first token; the identity if the tower does not use one."""
    pooler = getattr(text.transformer, "pooler", None)
    uses = getattr(text.pooler, "use_pooler_output", False)
    if pooler is None or not uses:
        return nn.Identity()
    return nn.Sequential(pooler.dense, pooler.activation)


def _context_length(text: OpenClip, example: Tensor | None) -> int:
    config = text.config
    rows = getattr(config, "max_position_embeddings", 0)
    if config.model_type in ("roberta", "xlm-roberta"):
        rows -= config.pad_token_id + 1
    length = len(example) if example is not None else (rows or CONTEXT)
    if rows and length > rows:
        raise ModelError(
            f"text tower {config.model_type} has {rows} positions, "
            f"but its texts have {length} tokens"
        )
    return int(length)


def _outputs(layer: nn.Module) -> int:
    """Return the number of outputs of a linear layer, 0 if none is left."""
    return layer.out_features if isinstance(layer, nn.Linear) else 0


def _attention(parts: BlockParts, heads: int, width: int) -> Attention | Constant:
    if not heads:
        return _constant(parts.attention[3], width)
    names = ("q_proj", "k_proj", "v_proj", "c_proj")
    layers = dict(zip(names, parts.attention, strict=True))
    attention = Attention(SimpleNamespace(**layers, num_heads=heads))
    if not parts.scaled:
        attention.scale = 1.0
    return attention


def _constant(layer: nn.Module, width: int) -> Constant:
    """Return the bias of a layer without inputs; zeros if it has no bias."""
    bias = getattr(layer, "bias", None)
    return Constant(torch.zeros(width) if bias is None else bias)


def _activation(source: nn.Module) -> nn.Module:
    """Return the activation, as one operator where transformers spells it out."""
    return nn.GELU(approximate="tanh") if type(source).__name__ in _TANH_GELU else source
