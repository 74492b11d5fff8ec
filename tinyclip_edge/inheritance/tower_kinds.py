"""The tower kinds from which weights are inherited: what each axis of each tensor counts.

There is one ``TowerKind`` per kind of tower; slicing, shapes and pruning read towers only through
it. A kind that is missing here can still be exported and imitated, but not inherited from.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.encoder_kinds import M2M_100, ROBERTA, T5
from tinyclip_edge.inheritance.fastvit_kind import FASTVIT
from tinyclip_edge.inheritance.open_clip_kinds import POOLED_VIT, RESNET, TEXT, VIT
from tinyclip_edge.inheritance.timm_kinds import TIMM_STEM_VIT, TIMM_VIT, VITAMIN
from tinyclip_edge.inheritance.tower_kind import (
    IMAGE_PREFIX,
    TEXT_PREFIXES,
    Place,
    TowerKind,
    TowerName,
    split_key,
)

CURE = "set inherit.method=none for a student that starts without its weights"
TOWER_KINDS: dict[str, TowerKind] = {
    kind.name: kind
    for kind in (
        *(POOLED_VIT, VIT, RESNET, TIMM_VIT, TIMM_STEM_VIT, VITAMIN, FASTVIT),
        *(TEXT, ROBERTA, T5, M2M_100),
    )
}
PLAIN: dict[TowerName, TowerKind] = {"image": VIT, "text": TEXT}


def locate(key: str, kinds: Mapping[TowerName, TowerKind] | None = None) -> Place | None:
    """Return the position of a tensor, None for an unknown key; without kinds, of a plain CLIP."""
    tower, prefix = split_key(key)
    return (kinds or PLAIN)[tower].locate(key, prefix)


def recognise(state: Mapping[str, Tensor], tower: TowerName) -> tuple[TowerKind, str]:
    """Return the kind of a tower and the prefix of its keys.

    Raises InheritanceError, which names the kinds, or what a tower lacks.
    """
    prefixes = (IMAGE_PREFIX,) if tower == "image" else TEXT_PREFIXES
    kinds = [kind for kind in TOWER_KINDS.values() if kind.tower == tower]
    for prefix in prefixes:
        for kind in kinds:
            if all(prefix + mark in state for mark in kind.marks):
                for key in kind.required:
                    if prefix + key not in state:
                        raise InheritanceError(f"the {tower} tower has no '{prefix + key}'; {CURE}")
                if kind.fused and prefix + kind.fused in state:
                    raise InheritanceError(
                        f"the {tower} tower is fused for inference ('{prefix + kind.fused}'), but "
                        f"only training branches are inherited; give its unfused weights, or {CURE}"
                    )
                return kind, prefix
    names = ", ".join(kind.name for kind in kinds)
    raise InheritanceError(
        f"the weights of this kind of {tower} tower cannot be inherited, only those of: {names}; "
        f"it can be exported, imitated, or taken whole with inherit.{tower}=frozen; {CURE}"
    )
