"""Configuration keys of transformers' text encoders, one entry per type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class EncoderKind:
    """Configuration keys of one type of encoder: its sizes, and its other settings."""

    width: str
    layers: str
    heads: str
    neurons: str
    settings: Mapping[str, type | tuple[type, ...]]  # besides sizes and vocabulary
    fixed: Mapping[str, Any] = field(default_factory=dict)  # training noise is off
    head_width: str = ""  # key of its own; empty: width over heads
    positions: str = ""  # rows of a table of positions; empty: none
    padded_positions: bool = False  # the first row used follows the padding token's

    @property
    def counts(self) -> tuple[str, ...]:
        """Keys of whole numbers above 0."""
        names = (self.width, self.layers, self.heads, self.neurons, self.head_width, self.positions)
        return (*(name for name in names if name), "vocab_size")


NUMBER = (int, float)
PADDING: Mapping[str, type | tuple[type, ...]] = {"pad_token_id": int}
_BERT = EncoderKind(
    width="hidden_size",
    layers="num_hidden_layers",
    heads="num_attention_heads",
    neurons="intermediate_size",
    positions="max_position_embeddings",
    settings={
        **PADDING,
        "type_vocab_size": int,
        "hidden_act": str,
        "layer_norm_eps": NUMBER,
        "initializer_range": NUMBER,
    },
    fixed={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
)
_ROBERTA = replace(_BERT, padded_positions=True)
_MT5 = EncoderKind(
    width="d_model",
    layers="num_layers",
    heads="num_heads",
    neurons="d_ff",
    head_width="d_kv",
    settings={
        **PADDING,
        "relative_attention_num_buckets": int,
        "relative_attention_max_distance": int,
        "layer_norm_epsilon": NUMBER,
        "feed_forward_proj": str,
        "initializer_factor": NUMBER,
    },
    fixed={"dropout_rate": 0.0, "num_decoder_layers": 1},
)
M2M_100 = EncoderKind(
    width="d_model",
    layers="encoder_layers",
    heads="encoder_attention_heads",
    neurons="encoder_ffn_dim",
    positions="max_position_embeddings",
    settings={
        **PADDING,
        "activation_function": str,
        "embed_scale": NUMBER,  # ours: transformers computes it from the width
        "init_std": NUMBER,
    },
    fixed={
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layers": 1,
    },
)
ENCODER_KINDS: dict[str, EncoderKind] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mt5": _MT5,
    "m2m_100": M2M_100,
}
