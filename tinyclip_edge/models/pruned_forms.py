"""Convert the published forms of a pruned or masked CLIP to ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.gates import ClipGates, ClipMasks
from tinyclip_edge.inheritance.shape import IMAGE_BLOCKS, TEXT_BLOCKS
from tinyclip_edge.inheritance.units import ClipUnits
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_edge.models.weights import listed

_KINDS = {"hidden": "hidden", "heads": "heads", "intermediate": "neurons"}
_TOWERS = ("image", "text")


def dense_state(state: Mapping[str, Tensor], units: ClipUnits) -> dict[str, Tensor]:
    """Return the weights of our dense blocks, where an empty half-block has only its bias.

    Published files omit the bias of an empty half-block too: it is zero then.
    """
    dense = dict(state)
    for blocks, tower in ((IMAGE_BLOCKS, units.image), (TEXT_BLOCKS, units.text)):
        for layer, (heads, neurons) in enumerate(zip(tower.heads, tower.neurons, strict=True)):
            block = f"{blocks}{layer}."
            if not heads:
                _empty(dense, block, ("ln_1.", "attn.in_proj"), "attn.out_proj", tower.width)
            if not neurons:
                _empty(dense, block, ("ln_2.", "mlp.c_fc."), "mlp.c_proj", tower.width)
    return dense


def apply_gates(
    clip: LoadedClip, gates: Mapping[str, Mapping[str, Tensor]], source: str
) -> tuple[LoadedClip, float]:
    """Prune a CLIP by the log-alphas of a checkpoint; a tower without any is not pruned.

    Returns it with the share of prunable parameters that was removed. Raises ModelError.
    """
    units = clip_units(clip)
    clip_gates = ClipGates(units)
    with torch.no_grad():
        for tower, kinds in gates.items():
            _copy_log_alphas(clip_gates, units, tower, kinds, source)
    masks = clip_gates.binarised()
    for tower in _TOWERS:
        absent = {
            mask_name for kind, mask_name in _KINDS.items() if kind not in gates.get(tower, {})
        }
        masks = _with_open_masks(masks, tower, absent)
    result = prune_clip(clip, masks)
    return result.clip, result.sparsity


def _empty(
    state: dict[str, Tensor], block: str, inputs: tuple[str, ...], output: str, width: int
) -> None:
    """Remove tensors without elements and their inputs; keep or add the output's bias."""
    hollow = [key for key in state if key.startswith(block) and not state[key].numel()]
    if hollow:
        removed = tuple(block + name for name in (*inputs, f"{output}.weight"))
        for key in [key for key in state if key.startswith(removed)]:
            del state[key]
    state.setdefault(f"{block}{output}.bias", torch.zeros(width))


def _copy_log_alphas(
    clip_gates: ClipGates, units: ClipUnits, tower: str, kinds: Mapping[str, Tensor], source: str
) -> None:
    """Copy one tower's log-alphas; ModelError for other kinds of masks or other sizes."""
    unknown = sorted(set(kinds) - set(_KINDS)) if tower in _TOWERS else [tower]
    if unknown:
        raise ModelError(
            f"{source}: masks over {', '.join(unknown)} cannot be applied, only over "
            f"{', '.join(_KINDS)}"
        )
    sizes = getattr(units, tower)
    expected = {
        "hidden": [sizes.width],
        "heads": [len(sizes.heads), sizes.heads[0]],
        "intermediate": [len(sizes.neurons), sizes.neurons[0]],
    }
    targets = {
        kind: getattr(getattr(clip_gates, tower), mask_name) for kind, mask_name in _KINDS.items()
    }
    # Layers of unequal size have no such table.
    wrong = [
        f"{tower} {kind}_loga {list(alphas.shape)} for {expected[kind]}"
        for kind, alphas in kinds.items()
        if list(alphas.shape) != expected[kind] or alphas.numel() != targets[kind].numel()
    ]
    if wrong:
        raise ModelError(
            f"{source}: the masks do not fit the weights: {listed('misshapen', wrong)}"
        )
    for kind, alphas in kinds.items():
        targets[kind].copy_(alphas.flatten())


def _with_open_masks(masks: ClipMasks, tower: str, kinds: set[str]) -> ClipMasks:
    """Return the masks with some kinds of one tower fully open."""
    of_tower = getattr(masks, tower)
    ones = {
        kind: torch.ones_like(value)
        if isinstance(value := getattr(of_tower, kind), Tensor)
        else tuple(map(torch.ones_like, value))
        for kind in kinds
    }
    return masks._replace(**{tower: of_tower._replace(**ones)})
