"""Read single values of a Hugging Face ``config.json``, which may be broken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.limits import SIZE_COUNT, is_count
from tinyclip_edge.models.build import mlp_ratio

_EPS = 1e-5  # open_clip's


def read_tower(
    config: Mapping[str, Any], name: str, defaults: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Return one tower's table, completed with transformers' defaults. Raises ModelError."""
    legacy = config.get(f"{name}_config_dict")
    settings = legacy if legacy is not None else config.get(f"{name}_config") or {}
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: {name}_config must be a table")
    return {**defaults, **settings}


def read_sizes(tower: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a transformer's sizes and LayerNorm under open_clip's names. Raises ModelError."""
    width, neurons = (
        read_count(tower, "hidden_size", path),
        read_count(tower, "intermediate_size", path),
    )
    sizes: dict[str, Any] = {"width": width, "layers": read_count(tower, "num_hidden_layers", path)}
    ratio = mlp_ratio(width, neurons)
    if ratio != 4:
        sizes["mlp_ratio"] = ratio
    eps = tower["layer_norm_eps"]
    if not isinstance(eps, (int, float)) or not 0 < eps < 1:
        raise ModelError(f"{path}: layer_norm_eps is {eps!r}")
    if eps != _EPS:
        sizes["norm_kwargs"] = {"eps": eps}
    return sizes


def read_head_width(tower: Mapping[str, Any], path: Path) -> int:
    """Return the channels of an attention head. Raises ModelError."""
    width, heads = (
        read_count(tower, "hidden_size", path),
        read_count(tower, "num_attention_heads", path),
    )
    if width % heads:
        raise ModelError(f"{path}: hidden_size {width} does not split into {heads} heads")
    return width // heads


def read_count(table: Mapping[str, Any], key: str, path: Path, default: int = 0) -> int:
    """Return a whole number above 0. Raises ModelError."""
    value = table.get(key, default)
    if not is_count(value) or value > SIZE_COUNT:
        raise ModelError(f"{path}: {key} is {value!r}, not a positive number")
    return value
