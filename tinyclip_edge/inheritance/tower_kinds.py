"""The tower kinds from which weights are inherited: what each axis of each tensor counts.

One ``TowerKind`` a kind of tower; slicing, shapes and pruning read towers through it alone. A
kind that is missing here can still be exported and imitated, its weights cannot be inherited.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from tinyclip_edge.errors import InheritanceError

TowerName: TypeAlias = Literal["image", "text"]
# Of a tower: channels, positions, embed, tokens, bottleneck (between two layers of a projection),
# pooled (channels after pooling), and those of its attention pool; of a layer: attended (heads
# times head width), qkv (three times that), heads and neurons. None: an axis that is never sliced.
Axes: TypeAlias = "tuple[str | None, ...]"
BOTH: tuple[TowerName, ...] = ("image", "text")
# Axes that stack several copies of another one, and how many.
STACKED = {"qkv": ("attended", 3), "pool_kv": ("pool_attended", 2)}
# Scalars that belong to no tower.
SHARED = ("logit_scale", "logit_bias")
IMAGE_PREFIX = "visual."
TEXT_PREFIXES = ("text.", "")  # open_clip.CustomTextCLIP has its text tower in a module
_VECTOR: Axes = ("channels",)


class Place(NamedTuple):
    """Position of a tensor in a CLIP; ``name`` is its key without the prefix of its layer."""

    tower: TowerName
    blocks: str  # prefix of the tower's layers
    layer: int | None  # None outside the layers
    name: str
    axes: Axes
    writes: bool  # to the residual stream, so that a mask of channels is folded into it
    part: str  # "attention" or "feed_forward": lost with a layer's heads or neurons; else empty


class ProbePoints(NamedTuple):
    """Layers of a block at which importance is measured, by name."""

    attended: str  # its input is the heads' outputs
    neurons: str  # its input is the neurons after the activation
    residuals: tuple[str, str]  # their outputs are added to the residual stream


@dataclass(frozen=True, slots=True)
class TowerKind:
    """Axes of the tensors of one kind of tower, keys without the tower's prefix."""

    name: str
    tower: TowerName
    blocks: str  # prefix of its layers
    outer: Mapping[str, Axes]
    block: Mapping[str, Axes]
    marks: tuple[str, ...]  # keys by which it is recognised
    required: tuple[str, ...] = ()
    patch: str = ""  # key of the patch embedding
    # Names of tensors that write to the residual stream.
    writes: frozenset[str] = frozenset()
    # Starts of the names of what a layer loses with its heads, and with its neurons.
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    probe: ProbePoints | None = None  # None: importance cannot be measured
    shared_heads: bool = False  # one table of positions for the heads of all layers

    def locate(self, key: str, prefix: str) -> Place | None:
        """Return the position of a tensor, None for an unknown key."""
        name, blocks = key.removeprefix(prefix), prefix + self.blocks
        if name in self.outer:
            writes = name in self.writes
            return Place(self.tower, blocks, None, key, self.outer[name], writes, "")
        number, _, rest = name.removeprefix(self.blocks).partition(".")
        if name.startswith(self.blocks) and number.isdecimal() and rest in self.block:
            part = next((p for p, names in self.parts.items() if rest.startswith(names)), "")
            writes = rest in self.writes
            return Place(self.tower, blocks, int(number), rest, self.block[rest], writes, part)
        return None

    def layer_sizes(self, state: Mapping[str, Tensor], prefix: str, layer: int) -> dict[str, int]:
        """Return the attended width and the neurons of a layer, 0 where masks removed all."""
        sizes = dict.fromkeys(("attended", "neurons"), 0)
        for name, axes in self.block.items():
            tensor = state.get(f"{prefix}{self.blocks}{layer}.{name}")
            if tensor is None:
                continue
            for axis, size in zip(axes, tensor.shape, strict=False):
                whole, copies = STACKED.get(axis or "", (axis, 1))
                if whole in sizes:
                    sizes[whole] = size // copies
        return sizes

    def sizes(self, state: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
        """Return the size of each axis, read from the tensors outside layers and in layer 0.

        Raises InheritanceError where two tensors disagree.
        """
        sizes: dict[str, tuple[int, str]] = {}
        for key, axis, size in self._axes(state, prefix):
            before, first = sizes.setdefault(axis, (size, key))
            if before != size:
                raise InheritanceError(
                    f"the {self.tower} tower contradicts itself: {axis} of '{key}' is {size}, "
                    f"of '{first}' {before}"
                )
        return {axis: size for axis, (size, _) in sizes.items()}

    def _axes(self, state: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, str, int]]:
        for start, table in ((prefix, self.outer), (f"{prefix}{self.blocks}0.", self.block)):
            for name, axes in table.items():
                tensor = state.get(start + name)
                if tensor is None:
                    continue
                for axis, size in zip(axes, tensor.shape, strict=False):
                    if axis is not None:
                        whole, copies = STACKED.get(axis, (axis, 1))
                        yield start + name, whole, size // copies


_OPEN_CLIP_BLOCK: dict[str, Axes] = {
    "ln_1.weight": _VECTOR,
    "ln_1.bias": _VECTOR,
    "ln_2.weight": _VECTOR,
    "ln_2.bias": _VECTOR,
    "ls_1.gamma": _VECTOR,
    "ls_2.gamma": _VECTOR,
    "attn.in_proj_weight": ("qkv", "channels"),
    "attn.in_proj_bias": ("qkv",),
    "attn.out_proj.weight": ("channels", "attended"),
    "attn.out_proj.bias": _VECTOR,
    "mlp.c_fc.weight": ("neurons", "channels"),
    "mlp.c_fc.bias": ("neurons",),
    "mlp.c_proj.weight": ("channels", "neurons"),
    "mlp.c_proj.bias": _VECTOR,
}
_OPEN_CLIP_WRITES = (
    "attn.out_proj.weight", "attn.out_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
)  # fmt: skip
_OPEN_CLIP_PARTS = {
    "attention": ("ln_1.", "attn.in_proj", "attn.out_proj.weight"),
    "feed_forward": ("ln_2.", "mlp.c_fc.", "mlp.c_proj.weight"),
}
_OPEN_CLIP_PROBE = ProbePoints("attn.out_proj", "mlp.c_proj", ("ls_1", "ls_2"))
VIT = TowerKind(
    name="ViT",
    tower="image",
    blocks="transformer.resblocks.",
    outer={
        "class_embedding": _VECTOR,
        "positional_embedding": ("positions", "channels"),
        "conv1.weight": ("channels", None, None, None),
        "ln_pre.weight": _VECTOR,
        "ln_pre.bias": _VECTOR,
        "ln_post.weight": _VECTOR,
        "ln_post.bias": _VECTOR,
        "proj": ("channels", "embed"),
    },
    block=_OPEN_CLIP_BLOCK,
    writes=frozenset(
        ("class_embedding", "conv1.weight", "positional_embedding", *_OPEN_CLIP_WRITES)
    ),
    parts=_OPEN_CLIP_PARTS,
    probe=_OPEN_CLIP_PROBE,
    marks=("conv1.weight", "class_embedding"),
    required=("positional_embedding", "proj"),
    patch="conv1.weight",
)
# Read and sliced in a module of its own: its widths double from stage to stage.
RESNET = TowerKind(
    name="ResNet",
    tower="image",
    blocks="",
    outer={},
    block={},
    marks=("layer1.0.conv1.weight",),
)
TEXT = TowerKind(
    name="open_clip text transformer",
    tower="text",
    blocks="transformer.resblocks.",
    outer={
        "token_embedding.weight": ("tokens", "channels"),
        "positional_embedding": ("positions", "channels"),
        "ln_final.weight": _VECTOR,
        "ln_final.bias": _VECTOR,
        "text_projection": ("channels", "embed"),
        "text_projection.weight": ("embed", "channels"),
        "text_projection.bias": ("embed",),
        "cls_emb": _VECTOR,
    },
    block=_OPEN_CLIP_BLOCK,
    writes=frozenset(("token_embedding.weight", "positional_embedding", *_OPEN_CLIP_WRITES)),
    parts=_OPEN_CLIP_PARTS,
    probe=_OPEN_CLIP_PROBE,
    marks=("token_embedding.weight",),
    required=("positional_embedding",),
)


def _linear(name: str, outputs: str, inputs: str) -> dict[str, Axes]:
    """Return the axes of a linear layer's weight and bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norms(*names: str, axis: str = "channels") -> dict[str, Axes]:
    return {f"{name}.{part}": (axis,) for name in names for part in ("weight", "bias")}


TIMM_VIT = TowerKind(
    name="timm ViT",
    tower="image",
    blocks="trunk.blocks.",
    outer={
        "trunk.cls_token": (None, None, "channels"),
        "trunk.reg_token": (None, None, "channels"),
        "trunk.pos_embed": (None, "positions", "channels"),
        "trunk.patch_embed.proj.weight": ("channels", None, None, None),
        "trunk.patch_embed.proj.bias": _VECTOR,
        **_norms("trunk.norm_pre", "trunk.norm"),
        **_norms("trunk.fc_norm", axis="pooled"),
        # The pool has a residual stream of its own, as wide as the tower's unless masks cut that.
        "trunk.attn_pool.latent": (None, None, "pooled"),
        **_linear("trunk.attn_pool.q", "pool_attended", "pooled"),
        **_linear("trunk.attn_pool.kv", "pool_kv", "channels"),
        **_linear("trunk.attn_pool.proj", "pooled", "pool_attended"),
        **_norms("trunk.attn_pool.norm", axis="pooled"),
        **_linear("trunk.attn_pool.mlp.fc1", "pool_neurons", "pooled"),
        **_linear("trunk.attn_pool.mlp.fc2", "pooled", "pool_neurons"),
        **_linear("trunk.head", "embed", "pooled"),
        **_linear("head.proj", "embed", "pooled"),
        **_linear("head.mlp.fc1", "bottleneck", "pooled"),
        **_linear("head.mlp.fc2", "embed", "bottleneck"),
    },
    block={
        **_norms("norm1", "norm2"),
        "ls1.gamma": _VECTOR,
        "ls2.gamma": _VECTOR,
        "gamma_1": _VECTOR,
        "gamma_2": _VECTOR,
        **_linear("attn.qkv", "qkv", "channels"),
        "attn.q_bias": ("attended",),
        "attn.v_bias": ("attended",),
        **_linear("attn.q_proj", "attended", "channels"),
        **_linear("attn.k_proj", "attended", "channels"),
        **_linear("attn.v_proj", "attended", "channels"),
        "attn.q_norm.weight": (None,),  # of one head, whose width is never cut
        "attn.q_norm.bias": (None,),
        "attn.k_norm.weight": (None,),
        "attn.k_norm.bias": (None,),
        **_norms("attn.norm", axis="attended"),
        **_linear("attn.proj", "channels", "attended"),
        **_linear("mlp.fc1", "neurons", "channels"),
        **_linear("mlp.fc1_g", "neurons", "channels"),
        **_linear("mlp.fc1_x", "neurons", "channels"),
        **_norms("mlp.norm", axis="neurons"),
        **_linear("mlp.fc2", "channels", "neurons"),
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
    marks=("trunk.blocks.0.attn.proj.bias", "trunk.patch_embed.proj.weight", "trunk.pos_embed"),
    patch="trunk.patch_embed.proj.weight",
)
# From transformers, in open_clip's HFTextEncoder: `proj` is a linear layer or two with a GELU, or,
# in AltCLIP, a norm and a linear layer.
_HF_PROJECTION: dict[str, Axes] = {
    "proj.weight": ("embed", "channels"),
    "proj.0.weight": ("bottleneck", "channels"),
    "proj.2.weight": ("embed", "bottleneck"),
    **_norms("proj.norm"),
    **_linear("proj.linear", "embed", "channels"),
}
ROBERTA = TowerKind(
    name="RoBERTa text encoder",
    tower="text",
    blocks="transformer.encoder.layer.",
    outer={
        "transformer.embeddings.word_embeddings.weight": ("tokens", "channels"),
        "transformer.embeddings.position_embeddings.weight": ("positions", "channels"),
        "transformer.embeddings.token_type_embeddings.weight": (None, "channels"),
        **_norms("transformer.embeddings.LayerNorm"),
        **_linear("transformer.pooler.dense", "channels", "channels"),
        **_HF_PROJECTION,
    },
    block={
        **_linear("attention.self.query", "attended", "channels"),
        **_linear("attention.self.key", "attended", "channels"),
        **_linear("attention.self.value", "attended", "channels"),
        **_linear("attention.output.dense", "channels", "attended"),
        **_norms("attention.output.LayerNorm", "output.LayerNorm"),
        **_linear("intermediate.dense", "neurons", "channels"),
        **_linear("output.dense", "channels", "neurons"),
    },
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
        # Layer 0 has the table of relative positions for all layers.
        "transformer.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (None, "heads"),
        "transformer.final_layer_norm.weight": _VECTOR,
        **_HF_PROJECTION,
    },
    block={
        "layer.0.SelfAttention.q.weight": ("attended", "channels"),
        "layer.0.SelfAttention.k.weight": ("attended", "channels"),
        "layer.0.SelfAttention.v.weight": ("attended", "channels"),
        "layer.0.SelfAttention.o.weight": ("channels", "attended"),
        "layer.0.layer_norm.weight": _VECTOR,
        "layer.1.layer_norm.weight": _VECTOR,
        "layer.1.DenseReluDense.wi.weight": ("neurons", "channels"),
        "layer.1.DenseReluDense.wi_0.weight": ("neurons", "channels"),
        "layer.1.DenseReluDense.wi_1.weight": ("neurons", "channels"),
        "layer.1.DenseReluDense.wo.weight": ("channels", "neurons"),
    },
    marks=("transformer.block.0.layer.0.SelfAttention.q.weight",),
    required=("transformer.final_layer_norm.weight",),
    shared_heads=True,
)
M2M_100 = TowerKind(
    name="M2M-100 text encoder",
    tower="text",
    blocks="transformer.layers.",
    outer={
        "transformer.embed_tokens.weight": ("tokens", "channels"),
        "transformer.embed_positions.weights": ("positions", "channels"),
        **_norms("transformer.layer_norm"),
        **_HF_PROJECTION,
    },
    block={
        **_linear("self_attn.q_proj", "attended", "channels"),
        **_linear("self_attn.k_proj", "attended", "channels"),
        **_linear("self_attn.v_proj", "attended", "channels"),
        **_linear("self_attn.out_proj", "channels", "attended"),
        **_norms("self_attn_layer_norm", "final_layer_norm"),
        **_linear("fc1", "neurons", "channels"),
        **_linear("fc2", "channels", "neurons"),
    },
    marks=("transformer.layers.0.self_attn.q_proj.weight",),
    required=("transformer.layer_norm.weight",),
)
TOWER_KINDS: dict[str, TowerKind] = {
    kind.name: kind for kind in (VIT, RESNET, TIMM_VIT, TEXT, ROBERTA, T5, M2M_100)
}


def split_key(key: str) -> tuple[TowerName, str]:
    """Return the tower of a tensor and the prefix of that tower's keys."""
    if key.startswith(IMAGE_PREFIX):
        return "image", IMAGE_PREFIX
    return "text", next(prefix for prefix in TEXT_PREFIXES if key.startswith(prefix))


def locate(key: str, kinds: Mapping[TowerName, TowerKind] | None = None) -> Place | None:
    """Return the position of a tensor, None for an unknown key; without kinds, of a plain CLIP."""
    tower, prefix = split_key(key)
    return (kinds or PLAIN)[tower].locate(key, prefix)


PLAIN: dict[TowerName, TowerKind] = {"image": VIT, "text": TEXT}


def recognise(state: Mapping[str, Tensor], tower: TowerName) -> tuple[TowerKind, str]:
    """Return the kind of a tower and the prefix of its keys.

    Raises InheritanceError that names the kinds, or what a tower lacks.
    """
    prefixes = (IMAGE_PREFIX,) if tower == "image" else TEXT_PREFIXES
    kinds = [kind for kind in TOWER_KINDS.values() if kind.tower == tower]
    for prefix in prefixes:
        for kind in kinds:
            if all(prefix + mark in state for mark in kind.marks):
                for key in kind.required:
                    if prefix + key not in state:
                        raise InheritanceError(f"the {tower} tower has no '{prefix + key}', {CURE}")
                return kind, prefix
    names = ", ".join(kind.name for kind in kinds)
    raise InheritanceError(
        f"the {tower} tower is of no kind whose weights can be inherited ({names}): it can be "
        f"exported and imitated, {CURE}"
    )


CURE = "and a student starts without its weights by inherit.method=none"
