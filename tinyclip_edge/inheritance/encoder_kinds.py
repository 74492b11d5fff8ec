"""Tower kinds of transformers' text encoders, in open_clip's HFTextEncoder."""

from __future__ import annotations

from tinyclip_edge.inheritance.tower_kind import (
    VECTOR,
    Axes,
    ProbePoints,
    TowerKind,
    linear_axes,
    norm_axes,
)

# In open_clip's HFTextEncoder, `proj` is a linear layer, or two with a GELU between them; in
# AltCLIP, a norm and a linear layer.
_HF_PROJECTION: dict[str, Axes] = {
    "proj.weight": ("embed", "channels"),
    "proj.0.weight": ("bottleneck", "channels"),
    "proj.2.weight": ("embed", "bottleneck"),
    **norm_axes("proj.norm"),
    **linear_axes("proj.linear", "embed", "channels"),
}
ROBERTA = TowerKind(
    name="RoBERTa text encoder",
    tower="text",
    blocks="transformer.encoder.layer.",
    outer={
        "transformer.embeddings.word_embeddings.weight": ("tokens", "channels"),
        "transformer.embeddings.position_embeddings.weight": ("positions", "channels"),
        "transformer.embeddings.token_type_embeddings.weight": (None, "channels"),
        **norm_axes("transformer.embeddings.LayerNorm"),
        **linear_axes("transformer.pooler.dense", "channels", "channels"),
        **_HF_PROJECTION,
    },
    block={
        **linear_axes("attention.self.query", "attended", "channels"),
        **linear_axes("attention.self.key", "attended", "channels"),
        **linear_axes("attention.self.value", "attended", "channels"),
        **linear_axes("attention.output.dense", "channels", "attended"),
        **norm_axes("attention.output.LayerNorm", "output.LayerNorm"),
        **linear_axes("intermediate.dense", "neurons", "channels"),
        **linear_axes("output.dense", "channels", "neurons"),
    },
    # Norms come after the sums, so that their outputs are the residual stream.
    writes=frozenset(
        (
            "transformer.embeddings.word_embeddings.weight",
            "transformer.embeddings.position_embeddings.weight",
            "transformer.embeddings.token_type_embeddings.weight",
            *norm_axes(
                "transformer.embeddings.LayerNorm", "attention.output.LayerNorm", "output.LayerNorm"
            ),
            *linear_axes("attention.output.dense", "", ""),
            *linear_axes("output.dense", "", ""),
        )
    ),
    parts={
        "attention": ("attention.self.", "attention.output.dense.weight"),
        "feed_forward": ("intermediate.", "output.dense.weight"),
    },
    probe=ProbePoints(
        "attention.output.dense",
        "output.dense",
        (
            "attention.output.dense",
            "attention.output.LayerNorm",
            "output.dense",
            "output.LayerNorm",
        ),
        pooled="transformer.pooler",
    ),
    marks=("transformer.embeddings.word_embeddings.weight",),
    required=("transformer.encoder.layer.0.attention.self.query.weight",),
)
T5 = TowerKind(
    name="T5 text encoder",
    tower="text",
    blocks="transformer.block.",
    outer={
        "transformer.embed_tokens.weight": ("tokens", "channels"),
        "transformer.shared.weight": ("tokens", "channels"),
        "transformer.final_layer_norm.weight": VECTOR,
        **_HF_PROJECTION,
    },
    block={
        "layer.0.SelfAttention.relative_attention_bias.weight": (None, "heads"),
        "layer.0.SelfAttention.q.weight": ("attended", "channels"),
        "layer.0.SelfAttention.k.weight": ("attended", "channels"),
        "layer.0.SelfAttention.v.weight": ("attended", "channels"),
        "layer.0.SelfAttention.o.weight": ("channels", "attended"),
        "layer.0.layer_norm.weight": VECTOR,
        "layer.1.layer_norm.weight": VECTOR,
        "layer.1.DenseReluDense.wi.weight": ("neurons", "channels"),
        "layer.1.DenseReluDense.wi_0.weight": ("neurons", "channels"),
        "layer.1.DenseReluDense.wi_1.weight": ("neurons", "channels"),
        "layer.1.DenseReluDense.wo.weight": ("channels", "neurons"),
    },
    writes=frozenset(
        (
            *("transformer.embed_tokens.weight", "transformer.shared.weight"),
            *("layer.0.SelfAttention.o.weight", "layer.1.DenseReluDense.wo.weight"),
        )
    ),
    parts={
        "attention": ("layer.0.",),
        "feed_forward": ("layer.1.",),
    },
    probe=ProbePoints(
        "layer.0.SelfAttention.o",
        "layer.1.DenseReluDense.wo",
        ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),
    ),
    marks=("transformer.block.0.layer.0.SelfAttention.q.weight",),
    required=("transformer.final_layer_norm.weight",),
    shared="layer.0.SelfAttention.relative_attention_bias.weight",
)
M2M_100 = TowerKind(
    name="M2M-100 text encoder",
    tower="text",
    blocks="transformer.layers.",
    outer={
        "transformer.embed_tokens.weight": ("tokens", "channels"),
        "transformer.embed_positions.weights": ("positions", "channels"),
        **norm_axes("transformer.layer_norm"),
        **_HF_PROJECTION,
    },
    block={
        **linear_axes("self_attn.q_proj", "attended", "channels"),
        **linear_axes("self_attn.k_proj", "attended", "channels"),
        **linear_axes("self_attn.v_proj", "attended", "channels"),
        **linear_axes("self_attn.out_proj", "channels", "attended"),
        **norm_axes("self_attn_layer_norm", "final_layer_norm"),
        **linear_axes("fc1", "neurons", "channels"),
        **linear_axes("fc2", "channels", "neurons"),
    },
    writes=frozenset(
        (
            *("transformer.embed_tokens.weight", "transformer.embed_positions.weights"),
            *linear_axes("self_attn.out_proj", "", ""),
            *linear_axes("fc2", "", ""),
        )
    ),
    parts={
        "attention": (
            *("self_attn_layer_norm.", "self_attn.q_proj.", "self_attn.k_proj."),
            *("self_attn.v_proj.", "self_attn.out_proj.weight"),
        ),
        "feed_forward": ("final_layer_norm.", "fc1.", "fc2.weight"),
    },
    probe=ProbePoints("self_attn.out_proj", "fc2", ("self_attn.out_proj", "fc2")),
    marks=("transformer.layers.0.self_attn.q_proj.weight",),
    required=("transformer.layer_norm.weight",),
)
