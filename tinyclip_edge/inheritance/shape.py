"""Read the shape of a CLIP from its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.open_clip_kinds import RESNET
from tinyclip_edge.inheritance.tower_kind import BOTH, IMAGE_PREFIX, TowerName
from tinyclip_edge.inheritance.tower_kinds import CURE, TOWER_KINDS, recognise

IMAGE_BLOCKS = "visual.transformer.resblocks."
TEXT_BLOCKS = "transformer.resblocks."
RESNET_STAGES = 4
RESNET_GROWTH = 32  # ratio of the attention pool's channels to the stem's


@dataclass(frozen=True, slots=True)
class HeadWidths:
    """Widths of attention heads, which weights do not show."""

    image: int = 64
    text: int = 64
    pool: int = 64  # of an attention pool of timm


@dataclass(frozen=True, slots=True)
class TowerShape:
    """Sizes of one tower; for a ResNet, heads and positions are those of its attention pool."""

    kind: str  # a key of TOWER_KINDS; empty: not read
    prefix: str = ""  # of its keys
    width: int = 0  # hidden channels; for a ResNet the stem's output channels
    layers: int = 0  # blocks
    heads: int = 0
    head_width: int = 0
    neurons: int = 0  # of each feed-forward block; none in a ResNet
    positions: int = 0  # image: patches and class token; text: context length
    stages: tuple[int, ...] = ()  # blocks of each stage of a ResNet
    pool_heads: int = 0  # of a timm ViT's attention pool
    pool_head_width: int = 0
    pool_neurons: int = 0
    bottleneck: int = 0  # between the two layers of a projection
    projects: bool = True  # False: the embedding is the tower's channels


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Sizes of both towers, the embedding and the vocabulary."""

    image: TowerShape
    text: TowerShape
    embed_dim: int
    vocabulary: int  # 0 in a student with other ids than its teacher's
    patch: int  # pixels; 0 for a ResNet

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        heads: HeadWidths | None = None,
        *,
        towers: Sequence[TowerName] = BOTH,
    ) -> ClipShape:
        """Read the sizes from an open_clip state dict in any order of keys.

        A tower that is not one of ``towers`` is not looked at. Raises InheritanceError for towers
        whose kind is unknown.
        """
        heads = heads or HeadWidths()
        unread: tuple[TowerShape, dict[str, int]] = (TowerShape(kind=""), {})
        image, image_sizes = _tower(state, "image", heads) if "image" in towers else unread
        text, text_sizes = _tower(state, "text", heads) if "text" in towers else unread
        patch = TOWER_KINDS[image.kind].patch if image.kind else ""
        return cls(
            image=image,
            text=text,
            embed_dim=text_sizes.get("embed", image_sizes.get("embed", text.width or image.width)),
            vocabulary=text_sizes.get("tokens", 0),
            patch=state[image.prefix + patch].shape[-1] if patch else 0,
        )


def _tower(
    state: Mapping[str, Tensor], tower: TowerName, heads: HeadWidths
) -> tuple[TowerShape, dict[str, int]]:
    """Return the shape of a tower and the size of each of its axes."""
    kind, prefix = recognise(state, tower)
    head_width = heads.image if tower == "image" else heads.text
    if kind is RESNET:
        projection = state.get("visual.attnpool.c_proj.weight")
        embed = {} if projection is None else {"embed": len(projection)}
        return _resnet(state, head_width), embed
    layers = count_blocks(state, prefix + kind.blocks, f"the {tower} tower")
    sizes = kind.sizes(state, prefix)
    for axis in ("attended", "neurons"):
        if axis not in sizes:
            raise InheritanceError(
                f"layer 0 of the {tower} tower has no {axis} units: it was pruned, {CURE}"
            )
    attended, pooled = sizes["attended"], sizes.get("pool_attended", 0)
    shape = TowerShape(
        kind=kind.name,
        prefix=prefix,
        width=sizes["channels"],
        layers=layers,
        heads=_heads(attended, head_width, f"the {tower} tower's attention"),
        head_width=head_width,
        neurons=sizes["neurons"],
        positions=sizes.get("positions", 0),
        pool_heads=_heads(pooled, heads.pool, f"the {tower} tower's attention pool"),
        pool_head_width=heads.pool if pooled else 0,
        pool_neurons=sizes.get("pool_neurons", 0),
        bottleneck=sizes.get("bottleneck", 0),
        projects="embed" in sizes,
    )
    return shape, sizes


def _heads(attended: int, head_width: int, where: str) -> int:
    heads, remainder = divmod(attended, head_width)
    if remainder:
        raise InheritanceError(
            f"{where} is {attended} wide, which is not a multiple of the head width {head_width}"
        )
    return heads


def count_blocks(state: Mapping[str, Tensor], prefix: str, where: str) -> int:
    """Return the number of blocks under a prefix; raise InheritanceError when numbers have gaps."""
    numbers = {
        int(key.removeprefix(prefix).split(".", 1)[0]) for key in state if key.startswith(prefix)
    }
    if not numbers or numbers != set(range(len(numbers))):
        raise InheritanceError(f"{where} has blocks {sorted(numbers)}, not 0, 1, 2 …")
    return len(numbers)


def _resnet(state: Mapping[str, Tensor], head_width: int) -> TowerShape:
    pool = "visual.attnpool."
    _require(state, (f"{pool}positional_embedding", f"{pool}q_proj.weight", "visual.conv3.weight"))
    width = state["visual.conv3.weight"].shape[0]
    attended, channels = state[f"{pool}q_proj.weight"].shape
    heads = _heads(attended, head_width, "the image tower's attention pool")
    if channels != RESNET_GROWTH * width:
        raise InheritanceError(
            f"the ResNet image tower pools {channels} channels, "
            f"not {RESNET_GROWTH} times the {width} of its stem"
        )
    stages = tuple(
        count_blocks(state, f"visual.layer{stage}.", f"ResNet stage {stage}")
        for stage in range(1, RESNET_STAGES + 1)
    )
    return TowerShape(
        kind=RESNET.name,
        prefix=IMAGE_PREFIX,
        width=width,
        layers=sum(stages),
        heads=heads,
        head_width=head_width,
        positions=state[f"{pool}positional_embedding"].shape[0],
        stages=stages,
    )


def _require(state: Mapping[str, Tensor], keys: Iterable[str]) -> None:
    for key in keys:
        if key not in state:
            raise InheritanceError(f"the image tower has no '{key}', {CURE}")
