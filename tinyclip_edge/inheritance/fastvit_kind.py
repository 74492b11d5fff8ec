"""The tower kind of FastViT, MobileCLIP's image tower (MCi), in open_clip's TimmModel.

Each stage but the first begins with a grouped convolution, which turns every channel of the stage
before into a fixed number of successors; so the channels of all stages are chosen together.
"""

from __future__ import annotations

from tinyclip_edge.inheritance.tower_kind import (
    VECTOR,
    Axes,
    ProbePoints,
    TowerKind,
    batch_norm_axes,
    linear_axes,
)


def _convolution(name: str, outputs: str, inputs: str | None = None) -> dict[str, Axes]:
    """Return the axes of a convolution and its norm; without ``inputs`` it is a grouped one."""
    return {f"{name}.conv.weight": (outputs, inputs), **batch_norm_axes(f"{name}.bn", outputs)}


def _branches(name: str, outputs: str, inputs: str | None = None) -> dict[str, Axes]:
    """Return the axes of the parallel branches of a MobileOne block."""
    return {
        **_convolution(f"{name}.conv_kxk.0", outputs, inputs),
        **_convolution(f"{name}.conv_scale", outputs, inputs),
        **batch_norm_axes(f"{name}.identity", outputs),
    }


def _squeeze(name: str, channels: str, squeezed: str) -> dict[str, Axes]:
    return linear_axes(f"{name}.fc1", squeezed, channels) | linear_axes(
        f"{name}.fc2", channels, squeezed
    )


FASTVIT = TowerKind(
    name="timm FastViT",
    tower="image",
    stages="trunk.stages.",
    blocks="blocks.",
    outer={
        **_branches("trunk.stem.0", "stem"),
        **_branches("trunk.stem.1", "stem"),
        **_branches("trunk.stem.2", "stem", "stem"),
        **_branches("trunk.final_conv", "final"),
        **_squeeze("trunk.final_conv.se", "final", "final_squeezed"),
        **linear_axes("trunk.head.fc", "embed", "final"),
        **linear_axes("head.proj", "embed", "final"),
        **linear_axes("head.mlp.fc1", "bottleneck", "final"),
        **linear_axes("head.mlp.fc2", "embed", "bottleneck"),
    },
    stage={
        **_convolution("downsample.proj.0.large_conv", "channels"),
        **_convolution("downsample.proj.0.small_conv", "channels"),
        **_squeeze("downsample.proj.0.se", "channels", "squeezed"),
        **_branches("downsample.proj.1", "channels", "channels"),
        **linear_axes("pos_emb.pos_enc", "channels", "channels"),
        "pos_emb.pos_enc.weight": VECTOR,
    },
    block={
        **batch_norm_axes("norm", "channels"),
        **_branches("token_mixer.norm", "channels"),
        **_branches("token_mixer.mixer", "channels"),
        "token_mixer.layer_scale.gamma": VECTOR,
        **linear_axes("token_mixer.qkv", "qkv", "channels"),
        **linear_axes("token_mixer.proj", "channels", "attended"),
        "layer_scale.gamma": VECTOR,
        "layer_scale_1.gamma": VECTOR,
        "layer_scale_2.gamma": VECTOR,
        **_convolution("mlp.conv", "channels"),
        **linear_axes("mlp.fc1", "neurons", "channels"),
        **linear_axes("mlp.fc2", "channels", "neurons"),
    },
    writes=frozenset(("mlp.fc2.weight",)),
    parts={"feed_forward": ("mlp.conv.", "mlp.fc1.", "mlp.fc2.weight")},
    marks=(
        "trunk.stages.0.blocks.0.mlp.fc1.weight",
        "trunk.stages.0.blocks.0.mlp.conv.conv.weight",
    ),
    # Of blocks with attention; see staged_probe for the others.
    probe=ProbePoints("token_mixer.proj", "mlp.fc2", ("drop_path1", "drop_path2")),
    fused="trunk.stem.0.reparam_conv.weight",
)
