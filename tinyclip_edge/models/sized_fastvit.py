"""Timm's FastViT image towers (MCi, MobileCLIP's) in other sizes than their names imply.

``layers`` of vision_cfg lists the blocks of each stage, as for a ResNet. ``width`` and
``mlp_ratio`` list one value per stage, or are one number: the width of the first stage, from which
the others grow as in the named model, or the ratio of all stages.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.masked_fastvit import FastViT, is_fastvit
from tinyclip_edge.models.library import quiet
from tinyclip_edge.models.meta_device import on_meta_device


@dataclass(frozen=True, slots=True)
class FastVitSizes:
    """Sizes of a FastViT, one value per stage; stages of convolutions have no heads."""

    width: list[int]
    layers: list[int]
    head_width: int
    mlp_ratio: list[float]
    attends: list[bool]
    final_ratio: float  # channels of the last convolution over those of the last stage

    @classmethod
    def of(cls, trunk: FastViT) -> FastVitSizes:
        """Read the sizes of a trunk."""
        firsts = [stage.blocks[0] for stage in trunk.stages]
        widths = [block.mlp.fc1.in_channels for block in firsts]
        heads = [getattr(block.token_mixer, "head_dim", None) for block in firsts]
        return cls(
            width=widths,
            layers=[len(stage.blocks) for stage in trunk.stages],
            head_width=next((head for head in heads if head is not None), 1),
            mlp_ratio=[
                block.mlp.fc1.out_channels / width
                for block, width in zip(firsts, widths, strict=True)
            ],
            attends=[head is not None for head in heads],
            final_ratio=trunk.final_conv.out_chs / widths[-1],
        )


@functools.lru_cache(maxsize=32)
def fastvit_sizes(name: str) -> FastVitSizes | None:
    """Return the sizes of a timm model by name; None if it is not a FastViT."""
    import timm

    if not timm.is_model(name) or "fastvit" not in name:
        return None
    with on_meta_device(), quiet():
        trunk = timm.create_model(name, pretrained=False)
    return FastVitSizes.of(trunk) if is_fastvit(trunk) else None


def fastvit_keywords(vision: Mapping[str, Any], usual: FastVitSizes) -> dict[str, Any]:
    """Return a vision_cfg's sizes as timm's keywords; omitted ones are the named model's.

    Raises ModelError for sizes that timm cannot build.
    """
    name = vision["timm_model_name"]
    layers = _listed(vision.get("layers", usual.layers), "layers", usual)
    widths = vision.get("width", usual.width)
    if not isinstance(widths, (list, tuple)):
        widths = _grown(_count(widths, "width"), usual, name)
    widths = _listed(widths, "width", usual)
    ratios = vision.get("mlp_ratio", usual.mlp_ratio)
    ratios = list(ratios) if isinstance(ratios, (list, tuple)) else [ratios] * len(layers)
    if len(ratios) != len(layers) or not all(_is_ratio(ratio) for ratio in ratios):
        raise ModelError(
            f"vision_cfg.mlp_ratio {vision['mlp_ratio']!r} must be a number above 0, or list one "
            f"for each of the {len(layers):,} stages of {name}"
        )
    head = vision.get("head_width", usual.head_width)
    if head != usual.head_width:
        raise ModelError(
            f"vision_cfg.head_width {head!r}: heads of {name} are {usual.head_width} wide; leave "
            "it out"
        )
    for stage, (width, attends) in enumerate(zip(widths, usual.attends, strict=True)):
        before = widths[stage - 1] if stage else 1
        if width % before:
            raise ModelError(
                f"vision_cfg.width {width} of stage {stage + 1} is not a multiple of {before}, the "
                "width of the stage before: a grouped convolution lies between them"
            )
        if attends and width % head:
            raise ModelError(
                f"vision_cfg.width {width} of stage {stage + 1} is not a multiple of {head}, the "
                "width of a head"
            )
    return {"layers": layers, "embed_dims": widths, "mlp_ratios": ratios}


def final_width(vision: Mapping[str, Any], usual: FastVitSizes) -> int:
    """Return the channels before pooling of a FastViT in the sizes of a vision_cfg."""
    widths: list[int] = fastvit_keywords(vision, usual)["embed_dims"]
    return int(widths[-1] * usual.final_ratio)


def _listed(values: object, key: str, usual: FastVitSizes) -> list[int]:
    stages = len(usual.layers)
    if not isinstance(values, (list, tuple)) or len(values) != stages:
        first = ", or give that of the first" if key == "width" else ""
        raise ModelError(
            f"vision_cfg.{key} {values!r} must list {stages} numbers, one for each stage{first}"
        )
    return [_count(value, key) for value in values]


def _grown(first: int, usual: FastVitSizes, name: str) -> list[int]:
    widths = [first * width // usual.width[0] for width in usual.width]
    if any(w * usual.width[0] != first * u for w, u in zip(widths, usual.width, strict=True)):
        raise ModelError(
            f"vision_cfg.width {first} cannot grow as the stages of {name} do; list one width for "
            "each stage"
        )
    return widths


def _count(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"vision_cfg.{key} {value!r} must be a whole number above 0")
    return value


def _is_ratio(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1000
