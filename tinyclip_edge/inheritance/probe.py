"""Watch a transformer tower run, and sum what the removal of each of its units would change.

A score is the mean over pictures or texts of (sum of activation * gradient)^2, the gradient taken
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
    """Importance of a tower's units; higher matters more."""

    heads: Tensor  # [layers, A]
    neurons: Tensor  # [layers, I]
    channels: Tensor  # [H]


def fisher_direction(p: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random ``[N, M]`` whose rows have mean 0 and covariance diag(p) - p p^T."""
    signs = torch.empty(p.shape).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    noise = p.sqrt() * signs.to(p.device)
    return noise - p * noise.sum(dim=-1, keepdim=True)


class TowerProbe:
    """Sums the scores of one tower over batches; its hooks hold while it is entered."""

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
        """Begin the graph at the embeddings: no parameter needs a gradient."""
        self._stream = args[0].detach().requires_grad_()
        return (self._stream, *args[1:])

    def add(self, logits: Tensor, draws: int, generator: torch.Generator) -> None:
        """Take in the batch that has just run; ``logits [N, M]`` are its similarities."""
        wanted = [self._stream, *(tensor for block in self._blocks for tensor in block.written)]
        p = logits.detach().softmax(dim=-1)
        with torch.no_grad():
            seen = [block.seen(self._head_width) for block in self._blocks]
        for draw in range(draws):
            direction = fisher_direction(p, generator)
            more = draw + 1 < draws
            gradients = torch.autograd.grad(logits, wanted, direction, retain_graph=more)
            changes = self._changes(gradients, seen)
            squares = [change.double().square().sum(dim=0) for change in changes]
            sums = self._sums or [torch.zeros_like(square) for square in squares]
            self._sums = [total + square for total, square in zip(sums, squares, strict=True)]
        self._count += draws * len(logits)

    @torch.no_grad()
    def _changes(self, gradients: tuple[Tensor, ...], seen: list[Tensor]) -> list[Tensor]:
        """Return what each removal changes: ``[N, layers, A]``, ``[N, layers, I]``, ``[N, H]``."""
        channels = (self._stream * gradients[0]).sum(dim=1)
        heads, neurons = [], []
        for number, block in enumerate(self._blocks):
            of_block = gradients[1 + len(block.written) * number :]
            attention, hidden, *halves = of_block[: len(block.written)]
            head = seen[number] * (attention @ block.out_weight)
            heads.append(head.view(*head.shape[:2], -1, self._head_width).sum(dim=(1, 3)))
            neurons.append((block.written.hidden * hidden).sum(dim=1))
            for wrote, gradient in zip(block.written[2:], halves, strict=True):
                channels += (wrote * gradient).sum(dim=1)
        return [torch.stack(heads, dim=1), torch.stack(neurons, dim=1), channels]

    def scores(self) -> UnitScores:
        """Return the means over everything added. Raises InheritanceError if not finite."""
        means = [(total / self._count).cpu() for total in self._sums]
        if not all(bool(mean.isfinite().all()) for mean in means):
            raise InheritanceError(
                "importance is not finite on the calibration pairs: the teacher's weights or the "
                "pictures hold NaN; set inherit.plan to evenly"
            )
        return UnitScores(*means)


class _Written(NamedTuple):
    """What a block computed, all ``[N, T, …]`` and part of the graph."""

    attention: Tensor  # after out_proj
    hidden: Tensor  # neurons after the activation
    first: Tensor  # what each half adds to the residual stream
    second: Tensor


class _BlockProbe:
    """Remembers what one block reads and writes while it runs."""

    def __init__(self, block: OpenClip) -> None:
        if not isinstance(block.attn, nn.MultiheadAttention) or block.attn.in_proj_weight is None:
            raise InheritanceError(
                f"importance cannot look into {type(block).__name__}; set inherit.plan to evenly"
            )
        self._block = block
        self._kept: dict[str, Tensor] = {}
        self._normed, self._mask = torch.empty(0), None

    @property
    def written(self) -> _Written:
        """Tensors of the last run."""
        return _Written(**self._kept)

    @property
    def out_weight(self) -> Tensor:
        """Weight of out_proj, ``[H, A * head width]``."""
        weight: Tensor = self._block.attn.out_proj.weight
        return weight

    def seen(self, head_width: int) -> Tensor:
        """Return what the heads saw in the last run, ``[N, T, A * head width]``."""
        attention = self._block.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        return attend(self._normed, weight, bias, head_width, self._mask)

    def attach(self) -> list[Any]:
        """Hook into the block; return the handles."""
        block = self._block
        return [
            block.attn.register_forward_hook(self._attended, with_kwargs=True),
            block.mlp.c_proj.register_forward_pre_hook(self._activated),
            block.ls_1.register_forward_hook(self._keeper("first")),
            block.ls_2.register_forward_hook(self._keeper("second")),
        ]

    def _attended(
        self, _: nn.Module, args: tuple[Any, ...], options: dict[str, Any], out: tuple[Any, ...]
    ) -> None:
        # MultiheadAttention computes out_proj itself: what the heads saw is computed again.
        self._normed, self._mask = args[0].detach(), options.get("attn_mask")
        self._kept["attention"] = out[0]

    def _activated(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._kept["hidden"] = args[0]

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
            self._kept[name] = out

        return keep
