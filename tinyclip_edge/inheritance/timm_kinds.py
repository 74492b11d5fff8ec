"""Tower kinds of timm's vision transformers, in open_clip's TimmModel."""

from __future__ import annotations

from dataclasses import replace

from tinyclip_edge.inheritance.tower_kind import (
    VECTOR,
    Axes,
    ProbePoints,
    TowerKind,
    linear_axes,
    norm_axes,
)

TIMM_VIT = TowerKind(
    name="timm ViT",
    tower="image",
    blocks="trunk.blocks.",
    outer={
        "trunk.cls_token": (None, None, "channels"),
        "trunk.reg_token": (None, None, "channels"),
        "trunk.pos_embed": (None, "positions", "channels"),
        "trunk.patch_embed.proj.weight": ("channels", None, None, None),
        "trunk.patch_embed.proj.bias": VECTOR,
        **norm_axes("trunk.norm_pre", "trunk.norm"),
        **norm_axes("trunk.fc_norm", axis="pooled"),
        # The pool has its own residual stream, as wide as the tower's unless masks shrink that.
        "trunk.attn_pool.latent": (None, None, "pooled"),
        **linear_axes("trunk.attn_pool.q", "pool_attended", "pooled"),
        **linear_axes("trunk.attn_pool.kv", "pool_kv", "channels"),
        **linear_axes("trunk.attn_pool.proj", "pooled", "pool_attended"),
        **norm_axes("trunk.attn_pool.norm", axis="pooled"),
        **linear_axes("trunk.attn_pool.mlp.fc1", "pool_neurons", "pooled"),
        **linear_axes("trunk.attn_pool.mlp.fc2", "pooled", "pool_neurons"),
        **linear_axes("trunk.head", "embed", "pooled"),
        **linear_axes("head.proj", "embed", "pooled"),
        **linear_axes("head.mlp.fc1", "bottleneck", "pooled"),
        **linear_axes("head.mlp.fc2", "embed", "bottleneck"),
    },
    block={
        **norm_axes("norm1", "norm2"),
        "ls1.gamma": VECTOR,
        "ls2.gamma": VECTOR,
        "gamma_1": VECTOR,
        "gamma_2": VECTOR,
        **linear_axes("attn.qkv", "qkv", "channels"),
        "attn.q_bias": ("attended",),
        "attn.v_bias": ("attended",),
        **linear_axes("attn.q_proj", "attended", "channels"),
        **linear_axes("attn.k_proj", "attended", "channels"),
        **linear_axes("attn.v_proj", "attended", "channels"),
        "attn.q_norm.weight": (None,),  # of one head, whose width is never cut
        "attn.q_norm.bias": (None,),
        "attn.k_norm.weight": (None,),
        "attn.k_norm.bias": (None,),
        **norm_axes("attn.norm", axis="attended"),
        **linear_axes("attn.proj", "channels", "attended"),
        **linear_axes("mlp.fc1", "neurons", "channels"),
        **linear_axes("mlp.fc1_g", "neurons", "channels"),
        **linear_axes("mlp.fc1_x", "neurons", "channels"),
        **norm_axes("mlp.norm", axis="neurons"),
        **linear_axes("mlp.fc2", "channels", "neurons"),
    },
    writes=frozenset(
        (
            *("trunk.cls_token", "trunk.reg_token", "trunk.pos_embed"),
            *("trunk.patch_embed.proj.weight", "trunk.patch_embed.proj.bias"),
            *("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
        )
    ),
    parts={
        "attention": (
            *("norm1.", "attn.qkv.", "attn.q_", "attn.k_", "attn.v_", "attn.norm."),
            "attn.proj.weight",
        ),
        "feed_forward": ("norm2.", "mlp.fc1", "mlp.norm.", "mlp.fc2.weight"),
    },
    probe=ProbePoints("attn.proj", "mlp.fc2", ("drop_path1", "drop_path2")),
    gains=(
        *("trunk.norm", "trunk.fc_norm.", "trunk.attn_pool.norm."),
        *("norm1.", "norm2.", "ls1.", "ls2.", "gamma_"),
        *("attn.q_norm.", "attn.k_norm.", "attn.norm.", "mlp.norm."),
    ),
    marks=("trunk.blocks.0.attn.proj.bias", "trunk.patch_embed.proj.weight", "trunk.pos_embed"),
    patch="trunk.patch_embed.proj.weight",
)


def _outer_with(patches: dict[str, Axes]) -> dict[str, Axes]:
    """Return the axes of a ViT's tensors outside its layers, with another patch embedding."""
    usual = TIMM_VIT.outer.items()
    return {name: axes for name, axes in usual if "patch_embed" not in name} | patches


def _writes_with(stem: str) -> frozenset[str]:
    """Return the tensors that write to a ViT's residual stream, with a convolutional stem."""
    usual = {name for name in TIMM_VIT.writes if "patch_embed" not in name}
    return frozenset({*usual, f"{stem}weight", f"{stem}bias"})


# MobileCLIP-B: its stem of convolutions is inherited whole, except for its output channels.
_STEM = "trunk.patch_embed.backbone."
TIMM_STEM_VIT = replace(
    TIMM_VIT,
    name="timm ViT with a stem of convolutions",
    outer=_outer_with({f"{_STEM}2.conv.weight": VECTOR, f"{_STEM}2.conv.bias": VECTOR}),
    whole=(f"{_STEM}0.", f"{_STEM}1."),
    writes=_writes_with(f"{_STEM}2.conv."),
    gains=(),
    marks=(f"{_STEM}2.conv.weight", "trunk.blocks.0.mlp.fc2.weight", "trunk.pos_embed"),
    patch="",
)
# Its two stages of convolutions are inherited whole; the transformer after them is sliced.
VITAMIN = replace(
    TIMM_STEM_VIT,
    name="timm ViTamin",
    outer=_outer_with({f"{_STEM}pool.proj.weight": VECTOR, f"{_STEM}pool.proj.bias": VECTOR}),
    block={
        **{name: axes for name, axes in TIMM_VIT.block.items() if not name.startswith("mlp.")},
        **norm_axes("mlp.norm"),
        **linear_axes("mlp.w0", "neurons", "channels"),
        **linear_axes("mlp.w1", "neurons", "channels"),
        **linear_axes("mlp.w2", "channels", "neurons"),
    },
    whole=(f"{_STEM}stem.", f"{_STEM}stages.", f"{_STEM}pool.norm."),
    writes=_writes_with(f"{_STEM}pool.proj.") | {"mlp.w2.weight", "mlp.w2.bias"},
    parts={
        **TIMM_VIT.parts,
        "feed_forward": ("norm2.", "mlp.norm.", "mlp.w0.", "mlp.w1.", "mlp.w2.weight"),
    },
    probe=ProbePoints("attn.proj", "mlp.w2", ("drop_path1", "drop_path2")),
    marks=(f"{_STEM}pool.proj.weight", "trunk.blocks.0.mlp.w2.weight", "trunk.pos_embed"),
)
