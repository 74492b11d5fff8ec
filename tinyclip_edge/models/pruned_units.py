"""Read the units of a pruned CLIP from a model folder's config, which is not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.open_clip_kinds import POOLED_VIT, TEXT, VIT
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits, inner_axes
from tinyclip_edge.limits import is_count
from tinyclip_edge.models.sizes import MAX_LAYERS, MAX_PARAMETERS

UNITS = "units"  # key of LoadedClip.config where layers differ


def read_units(table: object, source: str) -> ClipUnits:
    """Return the checked units of an untrusted config. Raises ModelError."""
    if not isinstance(table, dict) or set(table) != {f.name for f in fields(ClipUnits)}:
        raise ModelError(f"{source}: '{UNITS}' must hold image, text, embed_dim and patch")
    image, text = (_read_tower(table[name], name, f"{source}: {UNITS}.{name}") for name in _TOWERS)
    for key in ("embed_dim", "patch"):
        patchless = image.kind and not TOWER_KINDS[image.kind].patch
        if not is_count(table[key], minimum=0 if key == "patch" and patchless else 1):
            raise ModelError(f"{source}: {UNITS}.{key} must be a whole number above 0")
    units = ClipUnits(image, text, table["embed_dim"], table["patch"])
    if units.prunable + units.fixed > MAX_PARAMETERS:
        raise ModelError(f"{source}: '{UNITS}' describe more than {MAX_PARAMETERS:.0e} parameters")
    return units


_TOWERS = ("image", "text")
_STAGED = ("stages", "widths", "unmasked")  # of a tower in stages
_OPTIONAL = ("kind", "matrices", "pooled", *_STAGED)
# A table of units has no kind for open_clip's plain transformers.
_MASKED_KINDS = {
    tower: tuple(
        kind.name
        for kind in TOWER_KINDS.values()
        if kind.tower == tower and kind.writes and kind not in (VIT, TEXT)
    )
    for tower in _TOWERS
}


def _read_tower(table: object, tower: str, label: str) -> TowerUnits:
    required = {f.name for f in fields(TowerUnits) if f.default is MISSING}
    if not isinstance(table, dict) or not required <= set(table) <= {*required, *_OPTIONAL}:
        raise ModelError(f"{label} must hold {', '.join(sorted(required))}")
    for key in ("width", "head_width", "matrices", "pooled", "unmasked"):
        if key in table and not is_count(table[key]):
            raise ModelError(f"{label}.{key} must be a whole number above 0")
    kind = table.get("kind", "")
    if kind != "" and kind not in _MASKED_KINDS[tower]:
        raise ModelError(f"{label}.kind {kind!r} is not a {tower} tower that masks support")
    if not is_count(table["positions"], minimum=0 if kind else 1):
        raise ModelError(f"{label}.positions must be a whole number above 0")
    heads, neurons = table["heads"], table["neurons"]
    for key, counts in (("heads", heads), ("neurons", neurons)):
        if not isinstance(counts, (list, tuple)) or not all(is_count(n, minimum=0) for n in counts):
            raise ModelError(f"{label}.{key} must list a whole number for each layer")
    if not heads or len(heads) != len(neurons):
        raise ModelError(f"{label}: heads of {len(heads):,} layers, neurons of {len(neurons):,}")
    if len(heads) > MAX_LAYERS:
        raise ModelError(f"{label} lists {len(heads):,} layers, at most {MAX_LAYERS:,} are built")
    rest = {key: value for key, value in table.items() if key not in ("stages", "widths")}
    sizes = {**rest, "heads": tuple(heads), "neurons": tuple(neurons)}
    return TowerUnits(**sizes, **_read_stages(table, label))


def _read_stages(table: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the checked units that only a tower in stages has; {} for any other."""
    kind = TOWER_KINDS[table.get("kind") or VIT.name]
    expected = set(_STAGED) if kind.stages else set()
    if kind.whole or kind is POOLED_VIT:
        expected.add("unmasked")
    if {key for key in _STAGED if key in table} != expected:
        raise ModelError(
            f"{label} must hold {', '.join(_STAGED)} in a tower in stages, and at most unmasked "
            "in any other"
        )
    if not kind.stages:
        return {}
    for key in ("stages", "widths"):
        counts = table[key]
        if not isinstance(counts, (list, tuple)) or not all(is_count(n) for n in counts):
            raise ModelError(f"{label}.{key} must list a whole number above 0 for each stage")
    stages, widths = tuple(table["stages"]), tuple(table["widths"])
    layers, of_block = len(table["neurons"]), len(inner_axes(kind.name))
    if sum(stages) * of_block != layers or len(stages) != len(widths):
        raise ModelError(
            f"{label}: stages {list(stages)} and widths {list(widths)} do not describe {layers} "
            "layers"
        )
    return {"stages": stages, "widths": widths}
