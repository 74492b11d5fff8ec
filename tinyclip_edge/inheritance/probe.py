"""Score the units of a transformer tower by the change in the output when each is removed.

A score is the mean over pictures or texts of (sum of activation * gradient)^2, with the gradient
along a random direction of the logits whose covariance is the softmax's Fisher information: to
second order, twice the KL that the removal costs.
Shapes: N pictures or texts, M of the other side, T tokens, H channels, A heads, I neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.dense import attend

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names


class UnitScores(NamedTuple):
    """Importance of a tower's units; higher is more important."""

    heads: Tensor  # [layers, A]
    neurons: Tensor  # [layers, I]
    channels: Tensor  # [H]


def fisher_direction(p: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random ``[N, M]`` whose rows have mean 0 and covariance diag(p) - p p^T."""
    signs = torch.empty(p.shape).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    noise = p.sqrt() * signs.to(p.device)
    return noise - p * noise.sum(dim=-1, keepdim=True)


class TowerProbe:
    """Accumulates the scores of one tower over batches; its hooks are active in the context."""

    def __init__(self, transformer: OpenClip, head_width: int) -> None:
        self._transformer, self._head_width = transformer, head_width
        self._blocks = [_BlockProbe(block) for block in transformer.resblocks]
        self._stream = torch.empty(0)
        self._handles: list[Any] = []
        self._sums: list[Tensor] = []
        self._count = 0

    def __enter__(self) -> TowerProbe:
        self._handles = [self._transformer.register_forward_pre_hook(self._begin)]
        for block in self._blocks:
            self._handles += block.attach()
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Start the graph at the embeddings, since no parameter needs a gradient."""
        self._stream = args[0].detach().requires_grad_()
        return (self._stream, *args[1:])

    def add(self, logits: Tensor, draws: int, generator: torch.Generator) -> None:
        """Add the batch that was run last; ``logits [N, M]`` are its similarities."""
        inputs = [self._stream, *(tensor for block in self._blocks for tensor in block.outputs)]
        p = logits.detach().softmax(dim=-1)
        with torch.no_grad():
            head_outputs = [block.head_outputs(self._head_width) for block in self._blocks]
        for draw in range(draws):
            direction = fisher_direction(p, generator)
            retain_graph = draw + 1 < draws
            gradients = torch.autograd.grad(logits, inputs, direction, retain_graph=retain_graph)
            unit_changes = self._changes(gradients, head_outputs)
            squares = [change.double().square().sum(dim=0) for change in unit_changes]
            sums = self._sums or [torch.zeros_like(square) for square in squares]
            self._sums = [total + square for total, square in zip(sums, squares, strict=True)]
        self._count += draws * len(logits)

    @torch.no_grad()
    def _changes(self, gradients: tuple[Tensor, ...], head_outputs: list[Tensor]) -> list[Tensor]:
        """Return the change by each removal: ``[N, layers, A]``, ``[N, layers, I]``, ``[N, H]``."""
        channel_changes = (self._stream * gradients[0]).sum(dim=1)
        head_changes, neuron_changes = [], []
        for number, block in enumerate(self._blocks):
            block_gradients = gradients[1 + len(block.outputs) * number :]
            attention_gradient, hidden_gradient, *residual_gradients = block_gradients[
                : len(block.outputs)
            ]
            head_change = head_outputs[number] * (attention_gradient @ block.out_weight)
            head_changes.append(
                head_change.view(*head_change.shape[:2], -1, self._head_width).sum(dim=(1, 3))
            )
            neuron_changes.append((block.outputs.hidden * hidden_gradient).sum(dim=1))
            for residual, gradient in zip(block.outputs[2:], residual_gradients, strict=True):
                channel_changes += (residual * gradient).sum(dim=1)
        return [
            torch.stack(head_changes, dim=1),
            torch.stack(neuron_changes, dim=1),
            channel_changes,
        ]

    def scores(self) -> UnitScores:
        """Return the mean scores of all batches. Raises InheritanceError if not finite."""
        means = [(total / self._count).cpu() for total in self._sums]
        if not all(bool(mean.isfinite().all()) for mean in means):
            raise InheritanceError(
                "importance is not finite on the calibration pairs: the teacher's weights or the "
                "pictures hold NaN; set inherit.plan to evenly"
            )
        return UnitScores(*means)


class _BlockOutputs(NamedTuple):
    """Outputs inside a block, all ``[N, T, …]`` and part of the graph."""

    attention: Tensor  # after out_proj
    hidden: Tensor  # neurons after the activation
    first: Tensor  # attention's contribution to the residual stream
    second: Tensor  # feed-forward's contribution


class _BlockProbe:
    """Captures the inputs and outputs of one block while it runs."""

    def __init__(self, block: OpenClip) -> None:
        if not isinstance(block.attn, nn.MultiheadAttention) or block.attn.in_proj_weight is None:
            raise InheritanceError(
                f"importance cannot probe {type(block).__name__}; set inherit.plan to evenly"
            )
        self._block = block
        self._captured: dict[str, Tensor] = {}
        self._normed, self._mask = torch.empty(0), None

    @property
    def outputs(self) -> _BlockOutputs:
        """Tensors of the last run."""
        return _BlockOutputs(**self._captured)

    @property
    def out_weight(self) -> Tensor:
        """Weight of out_proj, ``[H, A * head width]``."""
        weight: Tensor = self._block.attn.out_proj.weight
        return weight

    def head_outputs(self, head_width: int) -> Tensor:
        """Return the heads' outputs of the last run, ``[N, T, A * head width]``."""
        attention = self._block.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        return attend(self._normed, weight, bias, head_width, self._mask)

    def attach(self) -> list[Any]:
        """Register the hooks; return their handles."""
        block = self._block
        return [
            block.attn.register_forward_hook(self._attended, with_kwargs=True),
            block.mlp.c_proj.register_forward_pre_hook(self._activated),
            block.ls_1.register_forward_hook(self._capture("first")),
            block.ls_2.register_forward_hook(self._capture("second")),
        ]

    def _attended(
        self, _: nn.Module, args: tuple[Any, ...], options: dict[str, Any], out: tuple[Any, ...]
    ) -> None:
        # MultiheadAttention applies out_proj itself, so the heads' outputs are recomputed later.
        self._normed, self._mask = args[0].detach(), options.get("attn_mask")
        self._captured["attention"] = out[0]

    def _activated(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._captured["hidden"] = args[0]

    def _capture(self, name: str) -> Callable[..., None]:
        def store(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
            self._captured[name] = out

        return store
