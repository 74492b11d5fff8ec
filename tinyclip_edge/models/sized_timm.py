"""Timm's image towers in other sizes than their names imply, for students of such towers.

open_clip's configuration only names a timm model. Here ``width``, ``layers``, ``head_width`` and
``mlp_ratio`` of vision_cfg, which open_clip ignores for a timm model, set its sizes. A folder with
such a model uses file names of our own, so that open_clip does not try to open it at full size.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from tinyclip_edge.errors import ModelError
from tinyclip_edge.limits import is_count
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.models.meta_device import on_meta_device
from tinyclip_edge.models.sized_fastvit import fastvit_keywords, fastvit_sizes, final_width

SIZES = ("width", "layers", "head_width", "mlp_ratio")
PATCH = "patch_size"  # of a tower that has sizes of its own

TimmTrunk: TypeAlias = Any  # a vision transformer of timm or a layer of it, read by attributes


@dataclass(frozen=True, slots=True)
class TimmSizes:
    """Sizes of a timm vision transformer."""

    width: int
    layers: int
    head_width: int
    mlp_ratio: float
    pool_head_width: int | None  # of its attention pool, None without one
    stem: TimmTrunk = None  # convolutions before its layers; None: one patch embedding

    @classmethod
    def of(cls, trunk: TimmTrunk) -> TimmSizes:
        """Read the sizes of a trunk."""
        block = trunk.blocks[0]
        pool = getattr(trunk, "attn_pool", None)
        return cls(
            width=trunk.embed_dim,
            layers=len(trunk.blocks),
            head_width=head_width(block.attn),
            mlp_ratio=_down(block.mlp).in_features / trunk.embed_dim,
            pool_head_width=None if pool is None else head_width(pool),
            stem=getattr(trunk.patch_embed, "backbone", None),
        )


def _down(mlp: TimmTrunk) -> TimmTrunk:
    """Return the layer of a feed-forward block that reads its neurons; ViTamin's is w2."""
    return mlp.w2 if hasattr(mlp, "w2") else mlp.fc2


def head_width(attention: TimmTrunk) -> int:
    """Return the width of the heads of an attention layer of timm."""
    rows: int = attention.proj.in_features
    return rows // int(attention.num_heads)


def is_sized(model_cfg: Mapping[str, Any]) -> bool:
    """Whether a model_cfg gives a timm image tower sizes of its own."""
    vision = model_cfg["vision_cfg"]
    return bool(vision.get("timm_model_name")) and any(key in vision for key in SIZES)


def timm_sizes(name: str) -> TimmSizes | None:
    """Return the sizes of a timm model by name; None if it is not a plain vision transformer."""
    return _named_sizes(name)


@functools.lru_cache(maxsize=32)
def _named_sizes(name: str) -> TimmSizes | None:
    import timm

    try:
        with on_meta_device(), quiet():
            trunk = timm.create_model(name, pretrained=False)
    except (RuntimeError, TypeError, ValueError):
        return None  # reported where it is built
    is_vit = all(hasattr(trunk, part) for part in ("blocks", "embed_dim", "pos_embed"))
    return TimmSizes.of(trunk) if is_vit and isinstance(trunk.embed_dim, int) else None


def build_sized(vision: Mapping[str, Any], embed_dim: int) -> nn.Module:
    """Return open_clip's TimmModel with a trunk of the sizes in a vision_cfg, random weights.

    Raises ModelError for another kind of model, and for sizes that do not fit.
    """
    import timm

    name = vision["timm_model_name"]
    options = open_clip.CLIPVisionCfg(**dict(vision))
    pool, projection = options.timm_pool, options.timm_proj
    if projection not in (None, "", "none", "linear") or pool in ("abs_attn", "rot_attn"):
        raise ModelError(f"vision_cfg: {name} in other sizes needs timm_proj null, none or linear")
    width, sizes = _trunk(vision, options.image_size)
    if projection == "none" and width != embed_dim:
        raise ModelError(
            f"vision_cfg: {name} has no projection (timm_proj: none), so its width {width} must be "
            f"the embedding's {embed_dim}; set embed_dim, or timm_proj: linear"
        )
    # On meta first: its trunk, which has the full size, is replaced below.
    with on_meta_device():
        visual: Any = open_clip.timm_model.TimmModel(
            name, embed_dim, image_size=options.image_size, pool=pool, proj=projection
        )
    classes = 0 if projection in ("none", "linear") else embed_dim
    if pool or projection != "linear":  # otherwise the model's own, as in open_clip
        sizes["global_pool"] = pool
    visual.trunk = timm.create_model(name, pretrained=False, num_classes=classes, **sizes)
    if projection == "linear":
        visual.head.proj = nn.Linear(width, embed_dim, bias=options.timm_proj_bias)
    built: nn.Module = visual
    return built


def pooled_width(vision: Mapping[str, Any]) -> int:
    """Return the output channels of a timm tower in a vision_cfg's sizes. Raises ModelError."""
    return _trunk(vision, vision.get("image_size", 224))[0]


def _trunk(vision: Mapping[str, Any], image_size: object) -> tuple[int, dict[str, Any]]:
    """Return a trunk's output channels, and timm's keywords for its sizes."""
    name = vision["timm_model_name"]
    usual, staged = timm_sizes(name), fastvit_sizes(name)
    if staged is not None and PATCH in vision:
        raise ModelError(f"vision_cfg.{PATCH}: {name} has no patches; leave it out")
    if staged is not None:
        return final_width(vision, staged), fastvit_keywords(vision, staged)
    if usual is None:
        raise ModelError(
            f"vision_cfg: {name} is neither a vision transformer nor a FastViT, so "
            f"{', '.join(SIZES)} do not apply; leave them out"
        )
    sizes = _keywords(vision, usual, name)
    return sizes["embed_dim"], {"img_size": image_size, **sizes}


def _keywords(vision: Mapping[str, Any], usual: TimmSizes, name: str) -> dict[str, Any]:
    """Return the sizes as timm's keywords; omitted ones are the named model's."""
    width, layers = vision.get("width", usual.width), vision.get("layers", usual.layers)
    head, ratio = vision.get("head_width", usual.head_width), vision.get("mlp_ratio")
    for key, value in (("width", width), ("layers", layers), ("head_width", head)):
        if not is_count(value):
            raise ModelError(f"vision_cfg.{key} {value!r} must be a whole number above 0")
    if width % head:
        raise ModelError(f"vision_cfg.width {width} is not a multiple of head_width {head}")
    sizes = {"embed_dim": width, "depth": layers, "num_heads": width // head}
    sizes["mlp_ratio"] = usual.mlp_ratio if ratio is None else ratio
    if usual.stem is not None:
        sizes |= _stem_keywords(usual, width, name)
    if PATCH in vision:
        if usual.stem is not None:
            raise ModelError(
                f"vision_cfg.{PATCH}: {name} has convolutions instead of patches; leave it out"
            )
        sizes[PATCH] = vision[PATCH]
    pool_head = usual.pool_head_width
    if pool_head is not None and pool_head != usual.head_width:
        if width % pool_head:
            raise ModelError(
                f"vision_cfg.width {width} is not a multiple of {pool_head}, the head width of "
                f"the attention pool of {name}"
            )
        sizes["attn_pool_num_heads"] = width // pool_head
    return sizes


def _stem_keywords(usual: TimmSizes, width: int, name: str) -> dict[str, Any]:
    """Return timm's keywords for a stem that outputs ``width`` channels."""
    if width == usual.width:
        return {}
    if not all(hasattr(usual.stem, part) for part in ("stages", "pool")):
        raise ModelError(
            f"vision_cfg.width {width}: timm builds the stem of {name} for {usual.width} channels "
            "only; leave it out, and give layers or mlp_ratio"
        )
    from timm.models.vitamin import VitCfg

    stages = usual.stem.stages
    return {
        "embed_cfg": VitCfg(
            embed_dim=(*(stage[0].out_chs for stage in stages), width),
            depths=(*(len(stage) for stage in stages), 1),
            stem_width=usual.stem.stem.out_chs,
        )
    }
