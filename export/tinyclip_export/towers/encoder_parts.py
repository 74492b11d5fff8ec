"""The layers of transformers' text encoders, pruned or not, by their part in a block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tinyclip_export.towers.blocks import OpenClip, shared


@dataclass(frozen=True, slots=True)
class BlockParts:
    """Layers of one block of transformers, by their part in it.

    If all heads or neurons were pruned, the output layer of attention or feed-forward has only a
    bias, or nothing, and the layers before it are unused.
    """

    attention: tuple[nn.Module, nn.Module, nn.Module, nn.Module]  # queries, keys, values, output
    norms: tuple[nn.Module, nn.Module]
    up: nn.Module
    gate: nn.Module | None  # its outputs multiply the activated neurons
    activation: nn.Module
    down: nn.Module
    head_width: int
    table: nn.Module | None = None  # of relative positions, in a pruned block
    scaled: bool = True  # whether scores are divided by the root of the head width
    normed_first: bool = True


Parts = tuple[list[BlockParts], "nn.Parameter | None", nn.Module, nn.Module]


def _bert(encoder: OpenClip, context: int, pad_id: int, head_width: int) -> Parts:
    embeddings = encoder.embeddings
    table = embeddings.position_embeddings.weight.detach()
    first = embeddings.token_type_embeddings.weight.detach()[:1]
    # Rows for padding, and for texts of the context length.
    places = nn.Parameter(table[: context + pad_id + 1] + first, False)
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
            head_width=head_width,
            normed_first=False,
        )
        for layer in encoder.encoder.layer
    ]
    return blocks, places, embeddings.LayerNorm, nn.Identity()


def _mt5(encoder: OpenClip, _: int, __: int, head_width: int) -> Parts:
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
                head_width=head_width,
                table=getattr(attention, "relative_attention_bias", None),
                scaled=False,
            )
        )
    return blocks, None, nn.Identity(), encoder.final_layer_norm


def _m2m_100(encoder: OpenClip, context: int, pad_id: int, head_width: int) -> Parts:
    places = shared(encoder.embed_positions.weights[: context + pad_id + 1])
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
            head_width=head_width,
        )
        for layer in encoder.layers
    ]
    return blocks, places, nn.Identity(), encoder.layer_norm


ENCODER_PARTS = {
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "mt5": _mt5,
    "m2m_100": _m2m_100,
}
