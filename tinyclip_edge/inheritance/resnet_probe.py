"""Score the units of a ResNet, as inheritance.probe scores those of a transformer.

An outer channel of a stage is removed from everything that adds to it: the shortcut of the first
block and the last norm of each block. Shapes: N pictures, C channels, A heads of the attention
pool, D of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.inheritance.masked_resnet import STAGES, ResNet
from tinyclip_edge.inheritance.probe import Probe, into, output_into

STEM = ("act1", "act2", "act3")


class ResNetScores(NamedTuple):
    """Importance of a ResNet's units; higher is more important."""

    stem: tuple[Tensor, ...]  # [C] of each of its convolutions
    reduced: tuple[Tensor, ...]  # [blocks, C] per stage: outputs of the first convolutions
    convolved: tuple[Tensor, ...]  # of the second
    outer: tuple[Tensor, ...]  # [C] per stage
    pool_heads: Tensor  # [A]


class ResNetProbe(Probe):
    """Accumulates the scores of a ResNet over batches; its hooks are active in the context."""

    def __init__(self, visual: ResNet, head_width: int) -> None:
        super().__init__()
        self._visual, self._head_width = visual, head_width
        self._captured: dict[str, Tensor] = {}
        self._pooled: dict[str, Tensor] = {}  # input of the attention pool

    def __enter__(self) -> ResNetProbe:
        visual = self._visual
        self._on_output(visual.act1, self._begin)
        for name in STEM[1:]:
            self._on_output(getattr(visual, name), output_into(self._captured, name))
        for stage in STAGES:
            for number, block in enumerate(getattr(visual, stage)):
                name = f"{stage}.{number}"
                for part in ("act1", "act2"):
                    hook = output_into(self._captured, f"{name} {part}")
                    self._on_output(getattr(block, part), hook)
                self._on_output(block.bn3, self._copied(f"{name} bn3"))
                if block.downsample is not None:
                    hook = output_into(self._captured, f"{name} shortcut")
                    self._on_output(block.downsample, hook)
        pool: nn.Module = visual.attnpool
        self._handles.append(pool.register_forward_pre_hook(into(self._pooled, "input")))
        self._on_output(pool, output_into(self._captured, "pool"))
        return self

    def _on_output(self, module: nn.Module, hook: Callable[..., Tensor | None]) -> None:
        self._handles.append(module.register_forward_hook(hook))

    def _begin(self, _: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
        """Start the graph behind the first convolution, since no parameter needs a gradient."""
        self._captured["act1"] = out.detach().requires_grad_()
        return self._captured["act1"]

    def _copied(self, name: str) -> Callable[..., Tensor]:
        """Return a hook that captures an output to which the shortcut is then added in place."""

        def store(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
            self._captured[name] = out
            return out.clone()

        return store

    def _inputs(self) -> list[Tensor]:
        return list(self._captured.values())

    @torch.no_grad()
    def _changes(self, gradients: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the change per removal: in the stem, in each stage, and of the pool's heads.

        Those of the stem are ``[N, C]``; each stage has two ``[N, blocks, C]``, then ``[N, C]``.
        """
        by_name = dict(zip(self._captured, gradients, strict=True))
        changes = {
            name: (value * by_name[name]).sum(dim=(2, 3))
            for name, value in self._captured.items()
            if name != "pool"
        }
        result = [changes[name] for name in STEM]
        for stage in STAGES:
            blocks = [f"{stage}.{number}" for number in range(len(getattr(self._visual, stage)))]
            for part in ("act1", "act2"):
                result.append(torch.stack([changes[f"{name} {part}"] for name in blocks], dim=1))
            adds = [f"{name} {part}" for name in blocks for part in ("bn3", "shortcut")]
            result.append(torch.stack([changes[name] for name in adds if name in changes]).sum(0))
        heads = self._head_outputs() * (by_name["pool"] @ self._visual.attnpool.c_proj.weight)
        return [*result, heads.view(len(heads), -1, self._head_width).sum(dim=2)]

    def _head_outputs(self) -> Tensor:
        """Recompute the heads' outputs of the last run, ``[N, A * head width]``."""
        pool, x = self._visual.attnpool, self._pooled["input"].flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + pool.positional_embedding
        q, k, v = (
            layer(part).view(*part.shape[:2], -1, self._head_width).transpose(1, 2)
            for layer, part in ((pool.q_proj, x[:, :1]), (pool.k_proj, x), (pool.v_proj, x))
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)

    def scores(self) -> ResNetScores:
        """Return the mean scores of all batches. Raises InheritanceError if not finite."""
        *means, heads = self._means()
        stages = means[len(STEM) :]
        reduced, convolved, outer = (tuple(stages[part::3]) for part in range(3))
        return ResNetScores(tuple(means[: len(STEM)]), reduced, convolved, outer, heads)
