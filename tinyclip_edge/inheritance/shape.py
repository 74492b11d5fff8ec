"""Read the shape of a CLIP from its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.open_clip_kinds import RESNET
from tinyclip_edge.inheritance.tower_kind import BOTH, IMAGE_PREFIX, TowerKind, TowerName
from tinyclip_edge.inheritance.tower_kinds import CURE, TOWER_KINDS, recognise

IMAGE_BLOCKS = "visual.transformer.resblocks."
TEXT_BLOCKS = "transformer.resblocks."
CLASS_AFTER_TEXT = "cls_emb"
RESNET_STAGES = 4
RESNET_GROWTH = 32  # ratio of the attention pool's channels to the stem's


@dataclass(frozen=True, slots=True)
class HeadWidths:
    """Widths of attention heads, which weights do not show."""

    image: int = 64
    text: int = 64
    pool: int = 64  # of an attention pool of timm


@dataclass(frozen=True, slots=True)
class StageShape:
    """Sizes of one stage of a FastViT."""

    blocks: int
    channels: int
    heads: int  # 0 in a stage of convolutions
    neurons: int  # of each feed-forward block
    squeezed: int  # channels inside its squeeze-and-excite; 0 without one


@dataclass(frozen=True, slots=True)
class TowerShape:
    """Sizes of one tower; for a ResNet, heads and positions are those of its attention pool."""

    kind: str  # a key of TOWER_KINDS; empty: not read
    prefix: str = ""  # of its keys
    width: int = 0  # hidden channels; of a ResNet or FastViT the stem's output channels
    layers: int = 0  # blocks
    heads: int = 0
    head_width: int = 0
    neurons: int = 0  # of each feed-forward block; none in a ResNet
    positions: int = 0  # image: patches and class token; text: context length
    stages: tuple[int, ...] = ()  # blocks of each stage of a ResNet or FastViT
    pool_heads: int = 0  # of a timm ViT's attention pool
    pool_head_width: int = 0
    pool_neurons: int = 0
    bottleneck: int = 0  # between the two layers of a projection
    class_last: bool = False  # the last position is that of a class token after a text
    projects: bool = True  # False: the embedding is the tower's channels
    parts: tuple[StageShape, ...] = ()  # stages of a FastViT
    final: int = 0  # channels of a FastViT's last convolution
    final_squeezed: int = 0  # inside that convolution's squeeze-and-excite


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Sizes of both towers, the embedding and the vocabulary."""

    image: TowerShape
    text: TowerShape
    embed_dim: int
    vocabulary: int  # 0 in a student with other ids than its teacher's
    patch: int  # pixels; 0 for a ResNet or FastViT

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        heads: HeadWidths | None = None,
        *,
        towers: Sequence[TowerName] = BOTH,
    ) -> ClipShape:
        """Read the sizes from an open_clip state dict in any order of keys.

        Only ``towers`` are read. Raises InheritanceError for towers whose kind is unknown.
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
    if kind.stages:
        return _staged(state, kind, prefix, head_width)
    layers = count_blocks(state, prefix + kind.blocks, f"the {tower} tower")
    sizes = kind.sizes(state, prefix)
    for axis in ("attended", "neurons"):
        if axis not in sizes:
            raise InheritanceError(
                f"layer 0 of the {tower} tower has no {axis} units: it was pruned; {CURE}"
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
        class_last=prefix + CLASS_AFTER_TEXT in state,
        projects="embed" in sizes,
    )
    return shape, sizes


def _staged(
    state: Mapping[str, Tensor], kind: TowerKind, prefix: str, head_width: int
) -> tuple[TowerShape, dict[str, int]]:
    """Return the shape of a tower whose stages differ in width, and the sizes outside them."""
    sizes, parts = kind.sizes(state, prefix), []
    for stage in range(count_blocks(state, prefix + kind.stages, "the image tower's stages")):
        where = f"stage {stage + 1} of the image tower"
        of_stage = kind.stage_sizes(state, prefix, stage)
        if "neurons" not in of_stage:
            raise InheritanceError(f"{where} has no neurons units: it was pruned; {CURE}")
        parts.append(
            StageShape(
                blocks=count_blocks(state, f"{prefix}{kind.stages}{stage}.{kind.blocks}", where),
                channels=of_stage["channels"],
                heads=_heads(of_stage.get("attended", 0), head_width, where),
                neurons=of_stage["neurons"],
                squeezed=of_stage.get("squeezed", 0),
            )
        )
    shape = TowerShape(
        kind=kind.name,
        prefix=prefix,
        width=sizes["stem"],
        layers=sum(part.blocks for part in parts),
        head_width=head_width,
        stages=tuple(part.blocks for part in parts),
        bottleneck=sizes.get("bottleneck", 0),
        projects="embed" in sizes,
        parts=tuple(parts),
        final=sizes["final"],
        final_squeezed=sizes.get("final_squeezed", 0),
    )
    return shape, sizes if shape.projects else {**sizes, "embed": shape.final}


def _heads(attended: int, head_width: int, where: str) -> int:
    heads, remainder = divmod(attended, head_width)
    if remainder:
        raise InheritanceError(
            f"{where} is {attended} wide, which is not a multiple of the head width {head_width}"
        )
    return heads


def count_blocks(state: Mapping[str, Tensor], prefix: str, where: str, first: int = 0) -> int:
    """Return the number of blocks under a prefix; raise InheritanceError when numbers have gaps."""
    numbers = {
        int(key.removeprefix(prefix).split(".", 1)[0]) for key in state if key.startswith(prefix)
    }
    expected = range(first, first + len(numbers))
    if not numbers or numbers != set(expected):
        raise InheritanceError(
            f"{where} has blocks {sorted(numbers)}, not {first}, {first + 1}, {first + 2} …"
        )
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
            raise InheritanceError(f"the image tower has no '{key}'; {CURE}")
