"""Run FastViT with masks on the neurons of its feed-forward blocks; those that are off are cut.

Its channels have no masks: grouped convolutions tie those of all stages to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.func import functional_call

from tinyclip_edge.inheritance.dense import Offset
from tinyclip_edge.inheritance.gates import TowerMasks
from tinyclip_edge.inheritance.prune import open_units

FastViT: TypeAlias = Any  # timm's FastVit or a part of it, read by attributes


class Bias(nn.Module):
    """A feed-forward block without neurons: it adds the same bias at every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc2 = Offset(channels)

    def forward(self, _: Tensor) -> Tensor:
        """Return ``[1, channels, 1, 1]`` for any input."""
        return self.fc2.get_parameter("bias")[None, :, None, None]


def is_fastvit(trunk: FastViT) -> bool:
    """Whether an image tower of timm is a FastViT."""
    return all(hasattr(trunk, part) for part in ("stem", "stages", "final_conv", "fork_feat"))


def feed_forward_blocks(trunk: FastViT) -> Iterator[tuple[str, FastViT]]:
    """Yield the name in the trunk and the module of each feed-forward block, in order."""
    for stage, blocks in enumerate(stage.blocks for stage in trunk.stages):
        for number, block in enumerate(blocks):
            yield f"stages.{stage}.blocks.{number}.mlp", block.mlp


def masked_neurons(visual: FastViT, masks: TowerMasks | None) -> dict[str, Tensor]:
    """Return the tensors around neurons without those that are off, with the factors folded in.

    Keys are those of open_clip's TimmModel. Gradients reach weights and masks; if all neurons of a
    block are off, one remains, with the factor 0.
    """
    tensors: dict[str, Tensor] = {}
    if masks is None:
        return tensors
    for (name, block), factors in zip(
        feed_forward_blocks(visual.trunk), masks.neurons, strict=True
    ):
        if isinstance(block, Bias):
            continue
        start, on = f"trunk.{name}", open_units(factors)
        weight = block.fc2.weight.index_select(1, on)
        scale = factors[on].to(weight.dtype).view(1, -1, 1, 1)
        tensors[f"{start}.fc1.weight"] = block.fc1.weight.index_select(0, on)
        tensors[f"{start}.fc1.bias"] = block.fc1.bias.index_select(0, on)
        tensors[f"{start}.fc2.weight"] = weight * scale
    return tensors


def run_with(visual: nn.Module, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Return the features ``[B, embedding]`` of a tower with some of its tensors replaced."""
    features: Tensor = functional_call(visual, dict(tensors), (images,))
    return features
