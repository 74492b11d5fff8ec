"""Text towers from transformers in open_clip: RoBERTa, XLM-R, BERT, mT5, the M2M-100 encoder.

They are written out in the operations of our own towers. Padding is hidden from the attention by
the ids, as in open_clip's HFTextEncoder, so that texts may have any padding or none.
Letters in shapes: B batch, L tokens, Q query tokens, W width, H heads, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinyclip_edge.errors import ModelError
from tinyclip_export.towers.blocks import Attention, OpenClip, shared, unit_norm
from tinyclip_export.towers.causal_mask import DEEP

CONTEXT = 77  # of a tower that may read texts of any length, without an example
_TANH_GELU = ("NewGELUActivation", "FastGELUActivation", "PytorchGELUTanh", "GELUTanh")


@dataclass(frozen=True, slots=True)
class BlockParts:
    """Layers of one block of transformers, by their part in it."""

    attention: tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]  # queries, keys, values, output
    norms: tuple[nn.Module, nn.Module]
    up: nn.Linear
    gate: nn.Linear | None  # its neurons are factors of the activated ones
    activation: nn.Module
    down: nn.Linear
    heads: int
    scaled: bool = True  # whether scores are divided by the root of the head width
    normed_first: bool = True


class EncoderBlock(nn.Module):
    """Transformer block that normalises before its layers, or after them."""

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        names = ("q_proj", "k_proj", "v_proj", "c_proj")
        layers = dict(zip(names, parts.attention, strict=True))
        self.attention = Attention(SimpleNamespace(**layers, num_heads=parts.heads))
        if not parts.scaled:
            self.attention.scale = 1.0
        self.norm_1, self.norm_2 = parts.norms
        self.up, self.gate, self.down = parts.up, parts.gate, parts.down
        self.activation = _activation(parts.activation)
        self.normed_first = parts.normed_first
        self.heads, self.neurons = parts.heads, parts.down.in_features

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

    def __init__(self, text: OpenClip, example: Tensor | None = None) -> None:
        super().__init__()
        encoder, model_type = text.transformer, text.config.model_type
        self.pad_id = int(text.config.pad_token_id)
        self.context_length = _context_length(text, example)
        self.tokens: nn.Embedding = encoder.get_input_embeddings()
        # Of M2M-100, whose module multiplies what it looks up.
        self.token_scale = float(getattr(self.tokens, "embed_scale", 1.0))
        parts, self.positions, self.embedding_norm, self.ln_final = _KINDS[model_type](
            encoder, self.context_length
        )
        *body, last = (EncoderBlock(each) for each in parts)
        self.body, self.last = nn.ModuleList(body), last
        self.counts_positions = model_type != "bert"
        bias = None
        if model_type == "mt5":
            relative = encoder.block[0].layer[0].SelfAttention
            with torch.no_grad():
                bias = relative.compute_bias(self.context_length, self.context_length)
        self.register_buffer("bias", bias, persistent=False)
        self.pools_mean = type(text.pooler).__name__ == "MeanPooler"
        self.pooler = _pooler(text)
        self.projection: nn.Module = text.proj

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode token ids; padding has no effect."""
        length = input_ids.shape[1]
        is_word = input_ids != self.pad_id
        x = self._embedded(input_ids, is_word)
        padding = ((~is_word).to(x.dtype) * DEEP)[:, None, None]
        if self.bias is not None:
            mask = padding + self.bias[:, :, :length, :length]
        else:  # onnxruntime's Attention asks for a row per query
            mask = padding.expand(-1, -1, length, -1)
        for block in self.body:
            x = block(x, mask)
        if self.pools_mean:
            words = is_word.to(x.dtype)[:, :, None]
            x = self.ln_final(self.last(x, mask)) * words
            pooled = x.sum(dim=1) / words.sum(dim=1)
        else:  # in the last block, the first token is the only query
            pooled = self.pooler(self.ln_final(self.last(x, mask[:, :, :1], x[:, :1])[:, 0]))
        return unit_norm(self.projection(pooled))

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
    """Whether a text tower is one of transformers that can be written out here."""
    config = getattr(text, "config", None)
    pooler = type(getattr(text, "pooler", None)).__name__
    return getattr(config, "model_type", "") in _KINDS and pooler in _POOLERS


_POOLERS = ("MeanPooler", "ClsPooler", "ClsLastHiddenStatePooler")


def _pooler(text: OpenClip) -> nn.Module:
    """Return the layer after the first token, of towers that have one and use it."""
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
            f"text tower {config.model_type} has {rows} positions, its texts have {length} tokens"
        )
    return int(length)


Parts = tuple[list[BlockParts], "nn.Parameter | None", nn.Module, nn.Module]


def _bert(encoder: OpenClip, context: int) -> Parts:
    embeddings = encoder.embeddings
    table = embeddings.position_embeddings.weight.detach()
    first = embeddings.token_type_embeddings.weight.detach()[:1]
    # Rows for padding, and for texts of the context length.
    places = nn.Parameter(table[: context + encoder.config.pad_token_id + 1] + first, False)
    blocks = [
        BlockParts(
            attention=(
                layer.attention.self.query,
                layer.attention.self.key,
                layer.attention.self.value,
                layer.attention.output.dense,
            ),
            norms=(layer.attention.output.LayerNorm, layer.output.LayerNorm),
            up=layer.intermediate.dense,
            gate=None,
            activation=layer.intermediate.intermediate_act_fn,
            down=layer.output.dense,
            heads=encoder.config.num_attention_heads,
            normed_first=False,
        )
        for layer in encoder.encoder.layer
    ]
    return blocks, places, embeddings.LayerNorm, nn.Identity()


def _mt5(encoder: OpenClip, _: int) -> Parts:
    blocks = []
    for layer in encoder.block:
        attention, feed_forward = layer.layer[0].SelfAttention, layer.layer[1].DenseReluDense
        gated = hasattr(feed_forward, "wi_1")
        blocks.append(
            BlockParts(
                attention=(attention.q, attention.k, attention.v, attention.o),
                norms=(layer.layer[0].layer_norm, layer.layer[1].layer_norm),
                up=feed_forward.wi_0 if gated else feed_forward.wi,
                gate=feed_forward.wi_1 if gated else None,
                activation=feed_forward.act,
                down=feed_forward.wo,
                heads=attention.n_heads,
                scaled=False,
            )
        )
    return blocks, None, nn.Identity(), encoder.final_layer_norm


def _m2m_100(encoder: OpenClip, context: int) -> Parts:
    places = shared(encoder.embed_positions.weights[: context + encoder.config.pad_token_id + 1])
    blocks = [
        BlockParts(
            attention=(
                layer.self_attn.q_proj,
                layer.self_attn.k_proj,
                layer.self_attn.v_proj,
                layer.self_attn.out_proj,
            ),
            norms=(layer.self_attn_layer_norm, layer.final_layer_norm),
            up=layer.fc1,
            gate=None,
            activation=layer.activation_fn,
            down=layer.fc2,
            heads=layer.self_attn.num_heads,
        )
        for layer in encoder.layers
    ]
    return blocks, places, nn.Identity(), encoder.layer_norm


_KINDS = {
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "mt5": _mt5,
    "m2m_100": _m2m_100,
}


def _activation(source: nn.Module) -> nn.Module:
    """Return the activation, as a single operator where it is spelt out in transformers."""
    return nn.GELU(approximate="tanh") if type(source).__name__ in _TANH_GELU else source
