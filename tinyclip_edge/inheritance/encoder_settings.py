"""The settings of transformers' text encoders, read from open_clip's HFTextEncoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.encoder_kinds import M2M_100, ROBERTA, T5
from tinyclip_edge.inheritance.tower_kind import TowerKind
from tinyclip_edge.inheritance.units import UNMASKED

HFText: TypeAlias = Any  # open_clip's HFTextEncoder or a part of it, read by attributes
TRUNK = "transformer."  # prefix of the encoder's keys in the text tower
POOLERS = {"MeanPooler": "mean", "ClsPooler": "layer", "ClsLastHiddenStatePooler": "first"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of the layers of one kind of encoder; those of a block without the block's prefix."""

    kind: TowerKind
    tokens: str
    attention: tuple[str, str, str, str]  # queries, keys, values, output
    norms: tuple[str, str]
    ups: tuple[str, ...]  # the first that exists is used; the activation follows
    gate: str  # its outputs multiply the activated neurons; empty: none
    down: str
    positions: str = ""
    types: str = ""
    first_norm: str = ""
    last_norm: str = ""
    normed_first: bool = True
    centred: bool = True  # False: norms only divide by the root mean square


LAYOUTS = {
    layout.kind.name: layout
    for layout in (
        Layout(
            kind=ROBERTA,
            tokens="embeddings.word_embeddings.weight",
            positions="embeddings.position_embeddings.weight",
            types="embeddings.token_type_embeddings.weight",
            first_norm="embeddings.LayerNorm",
            attention=(
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ),
            norms=("attention.output.LayerNorm", "output.LayerNorm"),
            ups=("intermediate.dense",),
            gate="",
            down="output.dense",
            normed_first=False,
        ),
        Layout(
            kind=T5,
            tokens="embed_tokens.weight",
            last_norm="final_layer_norm",
            attention=(
                "layer.0.SelfAttention.q",
                "layer.0.SelfAttention.k",
                "layer.0.SelfAttention.v",
                "layer.0.SelfAttention.o",
            ),
            norms=("layer.0.layer_norm", "layer.1.layer_norm"),
            ups=("layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wi_0"),
            gate="layer.1.DenseReluDense.wi_1",
            down="layer.1.DenseReluDense.wo",
            centred=False,
        ),
        Layout(
            kind=M2M_100,
            tokens="embed_tokens.weight",
            positions="embed_positions.weights",
            last_norm="layer_norm",
            attention=(
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.out_proj",
            ),
            norms=("self_attn_layer_norm", "final_layer_norm"),
            ups=("fc1",),
            gate="",
            down="fc2",
        ),
    )
}
_KINDS = {
    "bert": ROBERTA,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "mt5": T5,
    "m2m_100": M2M_100,
}


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Settings of a text tower that its tensors do not show."""

    layout: Layout
    layers: int
    head_width: int
    pad_id: int
    eps: float
    activation: nn.Module
    counts_positions: bool  # positions count words only, starting at pad_id + 1
    token_scale: float
    pool: str  # a value of POOLERS
    projection_eps: float  # of AltCLIP's norm
    max_distance: int  # relative positions from here on are treated alike

    @classmethod
    def of(cls, text: HFText) -> EncoderSettings:
        """Read the settings of a tower. Raises InheritanceError for an unsupported one."""
        encoder, config = text.transformer, text.config
        if hasattr(encoder, "settings"):  # it was pruned
            settings: EncoderSettings = encoder.settings
            return settings
        pool = POOLERS.get(type(text.pooler).__name__)
        model_type = getattr(config, "model_type", "")
        kind = _KINDS.get(model_type)
        usual = getattr(config, "position_embedding_type", "absolute") == "absolute"
        if kind is None or pool is None or not usual or isinstance(text.proj, nn.Identity):
            raise InheritanceError(
                f"text tower {type(text).__name__} ({model_type}) cannot be masked: its type, "
                f"pooling or positions are not supported, or it has no projection; {UNMASKED}"
            )
        blocks = encoder.get_submodule(kind.blocks.removeprefix(TRUNK).rstrip("."))
        head_width, activation, eps = _READERS[kind.name](encoder, blocks[0])
        normed = getattr(text.proj, "norm", None)
        return cls(
            layout=LAYOUTS[kind.name],
            layers=len(blocks),
            head_width=head_width,
            pad_id=int(config.pad_token_id),
            eps=eps,
            activation=activation,
            counts_positions=model_type != "bert",
            token_scale=float(getattr(getattr(encoder, "embed_tokens", None), "embed_scale", 1.0)),
            pool="first" if pool == "layer" and getattr(encoder, "pooler", None) is None else pool,
            projection_eps=getattr(normed, "eps", 0.0),
            max_distance=getattr(config, "relative_attention_max_distance", 0),
        )


def _bert(encoder: HFText, block: HFText) -> tuple[int, nn.Module, float]:
    """Return head width, activation and epsilon of the norms."""
    activation = block.intermediate.intermediate_act_fn
    return block.attention.self.attention_head_size, activation, encoder.embeddings.LayerNorm.eps


def _t5(encoder: HFText, block: HFText) -> tuple[int, nn.Module, float]:
    attention, feed_forward = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
    eps = encoder.final_layer_norm.variance_epsilon
    return attention.key_value_proj_dim, feed_forward.act, eps


def _m2m_100(encoder: HFText, block: HFText) -> tuple[int, nn.Module, float]:
    return block.self_attn.head_dim, block.activation_fn, encoder.layer_norm.eps


_READERS = {ROBERTA.name: _bert, T5.name: _t5, M2M_100.name: _m2m_100}


def is_encoder(text: HFText) -> bool:
    """Whether a text tower has the parts of open_clip's adapter for transformers."""
    return all(hasattr(text, part) for part in ("transformer", "pooler", "proj", "config"))
