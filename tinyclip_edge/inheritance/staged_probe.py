"""Score the units of a FastViT, as inheritance.probe scores those of a transformer.

Removing a channel removes its successors in later stages too, so its score is that of removing them
all. Shapes: N pictures, C channels of a stage, A heads, I neurons.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from tinyclip_edge.inheritance.probe import Probe, into

FastViT: TypeAlias = Any  # timm's FastVit or a part of it, read by attributes


class StagedScores(NamedTuple):
    """Importance of a FastViT's units; higher is more important."""

    heads: tuple[Tensor, ...]  # [blocks, A] per stage, [blocks, 0] without attention
    neurons: tuple[Tensor, ...]  # [blocks, I] per stage
    channels: tuple[Tensor, ...]  # [C] per stage
    final: Tensor  # of the last convolution's channels


class StagedProbe(Probe):
    """Accumulates the scores of a FastViT over batches; its hooks are active in the context."""

    def __init__(self, trunk: FastViT, head_width: int) -> None:
        super().__init__()
        self._trunk, self._head_width = trunk, head_width
        self._captured: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}  # inputs of the mixers, by the name of their output

    def __enter__(self) -> StagedProbe:
        for stage, module in enumerate(self._trunk.stages):
            first = module.blocks[0]
            start = self._begin if stage == 0 else into(self._captured, f"{stage} start")
            self._handles.append(first.register_forward_pre_hook(start))
            for block, layer in enumerate(module.blocks):
                self._attach(f"{stage}.{block}", layer)
        last: nn.Module = self._trunk.final_conv
        self._handles.append(last.register_forward_hook(self._output("final")))
        return self

    def _begin(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Start the graph at the first block, since no parameter needs a gradient."""
        self._captured["0 start"] = args[0].detach().requires_grad_()
        return (self._captured["0 start"],)

    def _attach(self, name: str, block: FastViT) -> None:
        neurons, attends = block.mlp.fc2, hasattr(block.token_mixer, "proj")
        self._handles.append(neurons.register_forward_pre_hook(into(self._captured, f"{name} mlp")))
        if attends:
            heads = into(self._captured, f"{name} heads")
            self._handles.append(block.token_mixer.proj.register_forward_pre_hook(heads))
            writers = {"first": block.drop_path1, "second": block.drop_path2}
        else:
            mixer = block.token_mixer
            self._handles.append(
                mixer.register_forward_pre_hook(into(self._before, f"{name} first"))
            )
            writers = {"first": mixer, "second": block.drop_path}
        for half, writer in writers.items():
            self._handles.append(writer.register_forward_hook(self._output(f"{name} {half}")))

    def _output(self, name: str) -> Any:  # noqa: ANN401 - a hook
        def store(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
            self._captured[name] = out

        return store

    def _inputs(self) -> list[Tensor]:
        return list(self._captured.values())

    @torch.no_grad()
    def _changes(self, gradients: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the change per removal of heads and neurons ``[N, blocks, ...]`` and of channels.

        The three of each stage come first, then the last convolution's channels ``[N, C]``.
        """
        changes: dict[str, Tensor] = {}
        for (name, value), gradient in zip(self._captured.items(), gradients, strict=True):
            added = value - self._before[name] if name in self._before else value
            spatial = (1,) if name.endswith("heads") else (2, 3)
            changes[name] = (added * gradient).sum(dim=spatial)
        final, stages = changes["final"], []
        successors = final
        for stage in reversed(range(len(self._trunk.stages))):
            blocks = [f"{stage}.{block}" for block in range(len(self._trunk.stages[stage].blocks))]
            channels = changes[f"{stage} start"].clone()
            for name in blocks:
                channels += changes[f"{name} first"] + changes[f"{name} second"]
            # The successors of one channel are adjacent.
            channels += successors.view(*channels.shape, -1).sum(dim=2)
            neurons = torch.stack([changes[f"{name} mlp"] for name in blocks], dim=1)
            heads = [
                changes[f"{name} heads"].view(len(neurons), -1, self._head_width).sum(dim=2)
                for name in blocks
                if f"{name} heads" in changes
            ]
            none = neurons.new_zeros(len(neurons), len(blocks), 0)
            stages.append((torch.stack(heads, dim=1) if heads else none, neurons, channels))
            successors = channels
        return [part for stage in reversed(stages) for part in stage] + [final]

    def scores(self) -> StagedScores:
        """Return the mean scores of all batches. Raises InheritanceError if not finite."""
        *stages, final = self._means()
        return StagedScores(tuple(stages[::3]), tuple(stages[1::3]), tuple(stages[2::3]), final)
