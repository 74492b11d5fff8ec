"""A CLIP's architecture in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.pruned_units import UNITS
from tinyclip_edge.models.sized_fastvit import fastvit_keywords, fastvit_sizes
from tinyclip_edge.models.sized_timm import SIZES, is_sized, timm_sizes
from tinyclip_edge.units import counted


def describe(clip: LoadedClip) -> str:
    """Return the sizes of both towers, as ranges where layers differ."""
    model_cfg = clip.config["model_cfg"]
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    units = clip.config.get(UNITS) or {}
    width, layers = vision.get("width", 768), vision.get("layers", 12)
    if vision.get("timm_model_name"):
        image = _timm(vision, units.get("image"))
    elif not isinstance(layers, int):
        image = f"ResNet of {_joined(layers)} blocks, width {width}"
    else:
        heads = width // vision.get("head_width", 64)
        sizes = units.get("image") or _equal(vision, width, heads)
        image = f"ViT/{vision.get('patch_size', 16)} of {_sizes(sizes)}"
    if text.get("hf_model_name"):
        language = str(text["hf_model_name"])
        if "text" in units:
            language += f" in {_sizes(units['text'])}"
        elif "width" in text:
            language += f" in {_sizes(_equal(text, text['width'], text['heads']))}"
    else:
        sizes = units.get("text") or _equal(text, text.get("width", 512), text.get("heads", 8))
        language = _sizes(sizes)
    return (
        f"{image}, {clip.image_size} px; text of {language}, context {clip.context_length}, "
        f"vocabulary {clip.vocabulary}; embedding {clip.embedding_dim}"
    )


def _timm(vision: dict[str, Any], units: dict[str, Any] | None) -> str:
    """Return a timm model's name, with its sizes if they were set or pruned."""
    name = str(vision["timm_model_name"])
    stages, usual = fastvit_sizes(name), timm_sizes(name)
    if stages is not None and (units or is_sized({"vision_cfg": vision})):
        sizes = fastvit_keywords(vision, stages)
        blocks, widths = (_joined(sizes[key]) for key in ("layers", "embed_dims"))
        text = f"{name} in {blocks} blocks, width {widths}"
        return f"{text}, {_span(units['neurons'])} neurons" if units else text
    if units or (usual is not None and is_sized({"vision_cfg": vision})):
        assert usual is not None
        sizes = {**{key: getattr(usual, key) for key in SIZES}, **vision}
        heads = sizes["width"] // sizes["head_width"]
        return f"{name} in {_sizes(units or _equal(sizes, sizes['width'], heads))}"
    return name


def _joined(values: Sequence[int]) -> str:
    return "-".join(map(str, values))


def _equal(table: dict[str, Any], width: int, heads: int) -> dict[str, Any]:
    layers = table.get("layers", 12)
    neurons = round(width * table.get("mlp_ratio", 4.0))
    return {"width": width, "heads": [heads] * layers, "neurons": [neurons] * layers}


def _sizes(units: dict[str, Any]) -> str:
    heads, neurons = _span(units["heads"]), _span(units["neurons"])
    layers = counted(len(units["heads"]), "layer")
    return f"width {units['width']}, {layers}, {heads} heads, {neurons} neurons"


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
