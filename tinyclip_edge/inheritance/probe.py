"""Score the units of a transformer tower by the change in the output when each is removed.

A score is the mean over pictures or texts of (sum of activation * gradient)^2, with the gradient
along a random direction of the logits whose covariance is the softmax's Fisher information: to
second order, twice the KL that the removal costs.
Shapes: N pictures or texts, M of the other side, T tokens, H channels, A heads, I neurons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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


class Probe(ABC):
    """Accumulates squared changes over batches; its hooks are active in the context."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._sums: list[Tensor] = []
        self._count = 0

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def add(self, logits: Tensor, draws: int, generator: torch.Generator) -> None:
        """Add the batch that was run last; ``logits [N, M]`` are its similarities."""
        inputs = self._inputs()
        p = logits.detach().softmax(dim=-1)
        for draw in range(draws):
            direction = fisher_direction(p, generator)
            retain_graph = draw + 1 < draws
            gradients = torch.autograd.grad(logits, inputs, direction, retain_graph=retain_graph)
            unit_changes = self._changes(gradients)
            squares = [change.double().square().sum(dim=0) for change in unit_changes]
            sums = self._sums or [torch.zeros_like(square) for square in squares]
            self._sums = [total + square for total, square in zip(sums, squares, strict=True)]
        self._count += draws * len(logits)

    @abstractmethod
    def _inputs(self) -> list[Tensor]:
        """Return the tensors of the last run with respect to which logits are differentiated."""

    @abstractmethod
    def _changes(self, gradients: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the change ``[N, ...]`` from the removal of each unit."""

    def _means(self) -> list[Tensor]:
        """Return the mean squares of all batches. Raises InheritanceError if not finite."""
        means = [(total / self._count).cpu() for total in self._sums]
        if not all(bool(mean.isfinite().all()) for mean in means):
            raise InheritanceError(
                "importance is not finite on the calibration pairs: the teacher's weights or the "
                "pictures hold NaN; set inherit.plan to evenly"
            )
        return means


class TowerProbe(Probe):
    """Accumulates the scores of one transformer over batches."""

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        points: ProbePoints,
        head_width: int,
        pool: PoolPoints | None = None,
        pooled: nn.Module | None = None,  # a layer after pooling; its outputs count as channels
    ) -> None:
        super().__init__()
        self._blocks = [
            (MultiheadProbe if _is_multihead(block) else BlockProbe)(block, points, head_width)
            for block in blocks
        ]
        self._head_width, self._pool, self._after_pooling = head_width, pool, pooled
        self._pooled: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}  # of the layer after pooling
        self._stream = torch.empty(0)
        self._head_outputs: list[Tensor] = []

    def __enter__(self) -> TowerProbe:
        first = self._blocks[0].block
        self._handles = [first.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for block in self._blocks:
            self._handles += block.attach()
        if self._pool is not None:
            for name in ("attended", "neurons"):
                layer: nn.Module = getattr(self._pool, name)
                self._handles.append(layer.register_forward_pre_hook(into(self._pooled, name)))
        if self._after_pooling is not None:
            hook = output_into(self._outputs, "pooled")
            self._handles.append(self._after_pooling.register_forward_hook(hook))
        return self

    def _begin(
        self, _: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Start the graph at the embeddings, since no parameter needs a gradient."""
        stream = args[0] if args else options["hidden_states"]
        self._stream = stream.detach().requires_grad_()
        if args:
            return (self._stream, *args[1:]), options
        return args, {**options, "hidden_states": self._stream}

    def _inputs(self) -> list[Tensor]:
        with torch.no_grad():
            self._head_outputs = [block.head_outputs() for block in self._blocks]
        outputs = (tensor for block in self._blocks for tensor in block.outputs)
        return [self._stream, *outputs, *self._outputs.values(), *self._pooled.values()]

    @torch.no_grad()
    def _changes(self, gradients: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the change per removal: ``[N, layers, A]``, ``[N, layers, I]``, ``[N, H]``."""
        channel_changes = (self._stream * gradients[0]).sum(dim=1)
        if self._outputs:
            gradient = gradients[-len(self._pooled) - 1]
            channel_changes += self._outputs["pooled"] * gradient
        head_changes, neuron_changes = [], []
        for number, block in enumerate(self._blocks):
            outputs = block.outputs
            block_gradients = gradients[1 + len(outputs) * number :]
            attention_gradient, hidden_gradient, *residual_gradients = block_gradients[
                : len(outputs)
            ]
            head_change = self._head_outputs[number] * block.head_gradient(attention_gradient)
            head_changes.append(
                head_change.view(*head_change.shape[:2], -1, self._head_width).sum(dim=(1, 3))
            )
            neuron_changes.append((outputs[1] * hidden_gradient).sum(dim=1))
            for residual, gradient in zip(outputs[2:], residual_gradients, strict=True):
                channel_changes += (residual * gradient).sum(dim=1)
        return [
            torch.stack(head_changes, dim=1),
            torch.stack(neuron_changes, dim=1),
            channel_changes,
            *self._pool_changes(gradients),
        ]

    def _pool_changes(self, gradients: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the change per removal in the pool, ``[N, A]`` and ``[N, I]``; [] without one."""
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
        return UnitScores(*self._means())


class BlockProbe:
    """Captures the inputs and outputs of one block while it runs."""

    def __init__(self, block: OpenClip, points: ProbePoints, head_width: int) -> None:
        self.block, self._points, self._head_width = block, points, head_width
        self._captured: dict[str, Tensor] = {}
        self._check()

    @property
    def outputs(self) -> list[Tensor]:
        """Tensors of the last run, all ``[N, T, …]`` and part of the graph.

        The heads' outputs, or what is computed from them; the neurons after the activation; and
        the contributions to the residual stream.
        """
        residuals = (self._captured[name] for name in self._points.residuals)
        return [self._captured["attention"], self._captured["hidden"], *residuals]

    def head_outputs(self) -> Tensor:
        """Return the heads' outputs of the last run, ``[N, T, A * head width]``."""
        return self._captured["attention"]

    def head_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient at the heads' outputs, given that at the first of ``outputs``."""
        return gradient

    def attach(self) -> list[Any]:
        """Register the hooks; return their handles."""
        return [
            self._attach_attention(),
            self._layer(self._points.neurons).register_forward_pre_hook(self._input("hidden")),
            *(
                self._layer(name).register_forward_hook(output_into(self._captured, name))
                for name in self._points.residuals
            ),
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
        return into(self._captured, name)


class MultiheadProbe(BlockProbe):
    """Probe of a block with torch's MultiheadAttention, which applies out_proj itself."""

    def head_outputs(self) -> Tensor:
        """Recompute the heads' outputs of the last run, ``[N, T, A * head width]``."""
        attention = self.block.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        return attend(self._normed, weight, bias, self._head_width, self._mask)

    def head_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient at the heads' outputs, given that at the output of out_proj."""
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


def into(captured: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Return a hook that captures the input of a layer under a name."""

    def store(_: nn.Module, args: tuple[Any, ...]) -> None:
        captured[name] = args[0]

    return store


def output_into(captured: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Return a hook that captures the output of a layer under a name."""

    def store(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
        captured[name] = out

    return store


def _is_multihead(block: OpenClip) -> bool:
    attention = getattr(block, "attn", None)
    return isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None
