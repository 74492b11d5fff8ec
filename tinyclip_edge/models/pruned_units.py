"""The units of a pruned CLIP in a model folder's config, which is not trusted."""

from __future__ import annotations

from dataclasses import MISSING, fields

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.encoder_kinds import M2M_100, ROBERTA, T5
from tinyclip_edge.inheritance.timm_kinds import TIMM_VIT
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits
from tinyclip_edge.limits import is_count
from tinyclip_edge.models.sizes import MAX_LAYERS, MAX_PARAMETERS

UNITS = "units"  # key of LoadedClip.config where layers differ


def read_units(table: object, source: str) -> ClipUnits:
    """Return the checked units of an untrusted config. Raises ModelError."""
    if not isinstance(table, dict) or set(table) != {f.name for f in fields(ClipUnits)}:
        raise ModelError(f"{source}: '{UNITS}' must hold image, text, embed_dim and patch")
    for key in ("embed_dim", "patch"):
        if not is_count(table[key]):
            raise ModelError(f"{source}: {UNITS}.{key} must be a whole number above 0")
    image, text = (_read_tower(table[name], name, f"{source}: {UNITS}.{name}") for name in _TOWERS)
    units = ClipUnits(image, text, table["embed_dim"], table["patch"])
    if units.prunable + units.fixed > MAX_PARAMETERS:
        raise ModelError(f"{source}: '{UNITS}' describe more than {MAX_PARAMETERS:.0e} parameters")
    return units


_TOWERS = ("image", "text")
_OPTIONAL = ("kind", "matrices", "pooled")
_MASKED_KINDS = {"image": (TIMM_VIT.name,), "text": (ROBERTA.name, T5.name, M2M_100.name)}


def _read_tower(table: object, tower: str, label: str) -> TowerUnits:
    required = {f.name for f in fields(TowerUnits) if f.default is MISSING}
    if not isinstance(table, dict) or not required <= set(table) <= {*required, *_OPTIONAL}:
        raise ModelError(f"{label} must hold {', '.join(sorted(required))}")
    for key in ("width", "head_width", "matrices", "pooled"):
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
    sizes = {**table, "heads": tuple(heads), "neurons": tuple(neurons)}
    return TowerUnits(**sizes)
