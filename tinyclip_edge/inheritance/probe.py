"""Score the units of a transformer tower by the change in the output when each is removed.

A score is the mean over pictures or texts of (sum of activation * gradient)^2, with the gradient
along a random direction of the logits whose covariance is the softmax's Fisher information: to
second order, twice the KL that the removal costs.
Shapes: N pictures or texts, M of the other side, T tokens, H channels, A heads, I neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.dense import attend
from tinyclip_edge.inheritance.tower_kind import ProbePoints

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names


class UnitScores(NamedTuple):
    """Importance of a tower's units; higher is more important."""

    heads: Tensor  # [layers, A]
    neurons: Tensor  # [layers, I]
    channels: Tensor  # [H]
    pool_heads: Tensor = torch.empty(0)  # of an attention pool after the blocks
    pool_neurons: Tensor = torch.empty(0)


class PoolPoints(NamedTuple):
    """Layers of an attention pool: their inputs are its heads' outputs and its neurons."""

    attended: nn.Module
    neurons: nn.Module
    head_width: int


def fisher_direction(p: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random ``[N, M]`` whose rows have mean 0 and covariance diag(p) - p p^T."""
    signs = torch.empty(p.shape).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    noise = p.sqrt() * signs.to(p.device)
    return noise - p * noise.sum(dim=-1, keepdim=True)


class TowerProbe:
    """Accumulates the scores of one tower over batches; its hooks are active in the context."""

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        points: ProbePoints,
        head_width: int,
        pool: PoolPoints | None = None,
    ) -> None:
        self._blocks = [
            (MultiheadProbe if _is_multihead(block) else BlockProbe)(block, points, head_width)
            for block in blocks
        ]
        self._head_width, self._pool = head_width, pool
        self._pooled: dict[str, Tensor] = {}
        self._stream = torch.empty(0)
        self._handles: list[Any] = []
        self._sums: list[Tensor] = []
        self._count = 0

    def __enter__(self) -> TowerProbe:
        first = self._blocks[0].block
        self._handles = [first.register_forward_pre_hook(self._begin)]
        for block in self._blocks:
            self._handles += block.attach()
        if self._pool is not None:
            for name in ("attended", "neurons"):
                layer: nn.Module = getattr(self._pool, name)
                self._handles.append(layer.register_forward_pre_hook(_into(self._pooled, name)))
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
        inputs += self._pooled.values()
        p = logits.detach().softmax(dim=-1)
        with torch.no_grad():
            head_outputs = [block.head_outputs() for block in self._blocks]
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
            head_change = head_outputs[number] * block.head_gradient(attention_gradient)
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
            *self._pool_changes(gradients),
        ]

    def _pool_changes(self, gradients: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the change by each removal in the pool, ``[N, A]`` and ``[N, I]``; or none."""
        if self._pool is None:
            return []
        last = gradients[-len(self._pooled) :]
        attended, neurons = (
            (value * gradient).sum(dim=1)
            for value, gradient in zip(self._pooled.values(), last, strict=True)
        )
        heads = attended.view(len(attended), -1, self._pool.head_width).sum(dim=2)
        return [heads, neurons]

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
    """Tensors inside a block, all ``[N, T, …]`` and part of the graph."""

    attention: Tensor  # the heads' outputs, or what is computed from them
    hidden: Tensor  # neurons after the activation
    first: Tensor  # attention's contribution to the residual stream
    second: Tensor  # feed-forward's contribution


class BlockProbe:
    """Captures the inputs and outputs of one block while it runs."""

    def __init__(self, block: OpenClip, points: ProbePoints, head_width: int) -> None:
        self.block, self._points, self._head_width = block, points, head_width
        self._captured: dict[str, Tensor] = {}
        self._check()

    @property
    def outputs(self) -> _BlockOutputs:
        """Tensors of the last run."""
        return _BlockOutputs(**self._captured)

    def head_outputs(self) -> Tensor:
        """Return the heads' outputs of the last run, ``[N, T, A * head width]``."""
        return self._captured["attention"]

    def head_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient by the heads' outputs, of that by ``outputs.attention``."""
        return gradient

    def attach(self) -> list[Any]:
        """Register the hooks; return their handles."""
        first, second = map(self._layer, self._points.residuals)
        return [
            self._attach_attention(),
            self._layer(self._points.neurons).register_forward_pre_hook(self._input("hidden")),
            first.register_forward_hook(self._output("first")),
            second.register_forward_hook(self._output("second")),
        ]

    def _attach_attention(self) -> RemovableHandle:
        layer = self._layer(self._points.attended)
        return layer.register_forward_pre_hook(self._input("attention"))

    def _check(self) -> None:
        names = (self._points.attended, self._points.neurons, *self._points.residuals)
        for name in names:
            try:
                self._layer(name)
            except AttributeError:
                raise InheritanceError(
                    f"importance cannot probe {type(self.block).__name__}, which has no {name}; "
                    "set inherit.plan to evenly"
                ) from None

    def _layer(self, name: str) -> nn.Module:
        layer: nn.Module = self.block.get_submodule(name)
        return layer

    def _input(self, name: str) -> Callable[..., None]:
        return _into(self._captured, name)

    def _output(self, name: str) -> Callable[..., None]:
        def store(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
            self._captured[name] = out

        return store


class MultiheadProbe(BlockProbe):
    """Probe of a block with torch's MultiheadAttention, which applies out_proj by itself."""

    def head_outputs(self) -> Tensor:
        """Recompute the heads' outputs of the last run, ``[N, T, A * head width]``."""
        attention = self.block.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        return attend(self._normed, weight, bias, self._head_width, self._mask)

    def head_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient by the heads' outputs, of that by the output of out_proj."""
        result: Tensor = gradient @ self.block.attn.out_proj.weight
        return result

    def _attach_attention(self) -> RemovableHandle:
        attention: nn.Module = self.block.attn
        return attention.register_forward_hook(self._attended, with_kwargs=True)

    def _attended(
        self, _: nn.Module, args: tuple[Any, ...], options: dict[str, Any], out: tuple[Any, ...]
    ) -> None:
        self._normed, self._mask = args[0].detach(), options.get("attn_mask")
        self._captured["attention"] = out[0]


def _into(captured: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Return a hook that captures the input of a layer under a name."""

    def store(_: nn.Module, args: tuple[Any, ...]) -> None:
        captured[name] = args[0]

    return store


def _is_multihead(block: OpenClip) -> bool:
    attention = getattr(block, "attn", None)
    return isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None
