"""Tower kinds of open_clip's own transformers and ResNets."""

from __future__ import annotations

from tinyclip_edge.inheritance.tower_kind import (
    VECTOR,
    Axes,
    ProbePoints,
    TowerKind,
    batch_norm_axes,
    linear_axes,
    norm_axes,
)

_OPEN_CLIP_BLOCK: dict[str, Axes] = {
    "ln_1.weight": VECTOR,
    "ln_1.bias": VECTOR,
    "ln_2.weight": VECTOR,
    "ln_2.bias": VECTOR,
    "ls_1.gamma": VECTOR,
    "ls_2.gamma": VECTOR,
    "attn.in_proj_weight": ("qkv", "channels"),
    "attn.in_proj_bias": ("qkv",),
    "attn.out_proj.weight": ("channels", "attended"),
    "attn.out_proj.bias": VECTOR,
    "mlp.c_fc.weight": ("neurons", "channels"),
    "mlp.c_fc.bias": ("neurons",),
    "mlp.c_proj.weight": ("channels", "neurons"),
    "mlp.c_proj.bias": VECTOR,
}
_OPEN_CLIP_WRITES = (
    "attn.out_proj.weight", "attn.out_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
)  # fmt: skip
_OPEN_CLIP_PARTS = {
    "attention": ("ln_1.", "attn.in_proj", "attn.out_proj.weight"),
    "feed_forward": ("ln_2.", "mlp.c_fc.", "mlp.c_proj.weight"),
}
_OPEN_CLIP_GAINS = ("ln_", "ls_")
_OPEN_CLIP_PROBE = ProbePoints("attn.out_proj", "mlp.c_proj", ("ls_1", "ls_2"))
VIT = TowerKind(
    name="ViT",
    tower="image",
    blocks="transformer.resblocks.",
    outer={
        "class_embedding": VECTOR,
        "positional_embedding": ("positions", "channels"),
        "conv1.weight": ("channels", None, None, None),
        "ln_pre.weight": VECTOR,
        "ln_pre.bias": VECTOR,
        "ln_post.weight": VECTOR,
        "ln_post.bias": VECTOR,
        "proj": ("channels", "embed"),
    },
    block=_OPEN_CLIP_BLOCK,
    writes=frozenset(
        ("class_embedding", "conv1.weight", "positional_embedding", *_OPEN_CLIP_WRITES)
    ),
    parts=_OPEN_CLIP_PARTS,
    probe=_OPEN_CLIP_PROBE,
    gains=_OPEN_CLIP_GAINS,
    marks=("conv1.weight", "class_embedding"),
    required=("positional_embedding", "proj"),
    patch="conv1.weight",
)
# CoCa's image tower, whose attention pool outputs as many channels as the embedding has.
POOLED_VIT = TowerKind(
    name="ViT with an attention pool",
    tower="image",
    blocks=VIT.blocks,
    outer={
        **VIT.outer,
        "attn_pool.query": (None, "embed"),
        **norm_axes("attn_pool.ln_q", axis="embed"),
        **norm_axes("attn_pool.ln_k"),
        "attn_pool.attn.q_proj_weight": ("pool_attended", "embed"),
        "attn_pool.attn.k_proj_weight": ("pool_attended", "channels"),
        "attn_pool.attn.v_proj_weight": ("pool_attended", "channels"),
        "attn_pool.attn.in_proj_weight": ("pool_qkv", "channels"),  # where both are equally wide
        "attn_pool.attn.in_proj_bias": ("pool_qkv",),
        **linear_axes("attn_pool.attn.out_proj", "embed", "pool_attended"),
        **norm_axes("ln_post", axis="embed"),
        "proj": ("embed", "embed"),
    },
    block=_OPEN_CLIP_BLOCK,
    writes=VIT.writes,
    parts=_OPEN_CLIP_PARTS,
    marks=(*VIT.marks, "attn_pool.query"),
    required=VIT.required,
    patch=VIT.patch,
)
# Students inherit from it in a module of its own, because its widths double from stage to stage;
# this table serves masks, which are on the channels inside its blocks.
RESNET = TowerKind(
    name="ResNet",
    tower="image",
    stages="layer",
    first_stage=1,
    blocks="",
    outer={},
    block={
        "conv1.weight": ("reduced", None, None, None),
        **batch_norm_axes("bn1", "reduced"),
        "conv2.weight": ("convolved", "reduced", None, None),
        **batch_norm_axes("bn2", "convolved"),
        "conv3.weight": (None, "convolved", None, None),
        **dict.fromkeys(batch_norm_axes("bn3", "channels"), ()),
        "downsample.0.weight": (),
        **dict.fromkeys(batch_norm_axes("downsample.1", "channels"), ()),
    },
    whole=("conv1.", "bn1.", "conv2.", "bn2.", "conv3.", "bn3.", "attnpool."),
    writes=frozenset(("conv2.weight", "conv3.weight")),
    parts={"bottleneck": ("conv1.", "bn1.", "conv2.", "bn2.", "conv3.")},
    marks=("layer1.0.bn3.weight",),
    probe=ProbePoints("", "conv3", ("bn3",)),  # see resnet_probe for what else is measured
)
TEXT = TowerKind(
    name="open_clip text transformer",
    tower="text",
    blocks="transformer.resblocks.",
    outer={
        "token_embedding.weight": ("tokens", "channels"),
        "positional_embedding": ("positions", "channels"),
        "ln_final.weight": VECTOR,
        "ln_final.bias": VECTOR,
        "text_projection": ("channels", "embed"),
        "text_projection.weight": ("embed", "channels"),
        "text_projection.bias": ("embed",),
        "cls_emb": VECTOR,
    },
    block=_OPEN_CLIP_BLOCK,
    writes=frozenset(
        ("token_embedding.weight", "positional_embedding", "cls_emb", *_OPEN_CLIP_WRITES)
    ),
    parts=_OPEN_CLIP_PARTS,
    probe=_OPEN_CLIP_PROBE,
    gains=_OPEN_CLIP_GAINS,
    marks=("token_embedding.weight",),
    required=("positional_embedding",),
)
