"""The gradient of a whole batch in parts, with the activations of one part at a time.

Affinities need the features of all pairs at once, but activations are not needed: a first pass
computes features without a graph, the loss is taken over all of them, and a second pass repeats
each part with its graph and applies the loss's gradient (Gao et al. 2021, arXiv 2101.06983, section
3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from tinyclip_edge.train.tasks.encoders import EncodedPairs

Forward = Callable[[slice], EncodedPairs]  # of rows


class GradCache:
    """One batch of ``rows`` pairs in ``parts``; call ``first``, take the loss, call ``second``.

    ``forward`` runs a part; random numbers (gates, patch dropout) are the same in both passes and
    in every part. Batch norms see one part at a time and count it once.
    """

    def __init__(self, forward: Forward, module: nn.Module, rows: int, parts: int) -> None:
        self._forward = forward
        self._module = module
        edges = [rows * number // parts for number in range(parts + 1)]
        slices = [slice(edge, after) for edge, after in pairwise(edges)]
        self._parts = [part for part in slices if part.stop > part.start]
        self._leaves: EncodedPairs | None = None
        self._noise: tuple[Tensor, Tensor | None] | None = None  # states of the generators

    def first(self) -> EncodedPairs:
        """Return features ``[rows, D]``, scale and bias as leaves of the loss's graph."""
        device = next(self._module.parameters()).device
        noise = self._noise = _noise(device)
        buffers = [buffer.clone() for buffer in self._module.buffers()]
        outputs = []
        with torch.no_grad():
            for part in self._parts:
                _set_noise(device, noise)
                outputs.append(self._forward(part))
            for buffer, before in zip(self._module.buffers(), buffers, strict=True):
                buffer.copy_(before)
        *towers, scale, bias = zip(*outputs, strict=True)
        leaves = (*map(torch.cat, towers), scale[-1].detach().clone(), bias[-1].detach().clone())
        self._leaves = EncodedPairs(*(leaf.requires_grad_() for leaf in leaves))
        return self._leaves

    def second(self) -> None:
        """Propagate the current gradient of the leaves to the parameters."""
        assert self._leaves is not None
        assert self._noise is not None
        image, text, *scalars = self._leaves
        device = image.device
        for part in self._parts:
            last = part is self._parts[-1]
            with nullcontext() if last else _unsynchronised(self._module):
                _set_noise(device, self._noise)
                *features, scale, bias = self._forward(part)
                pairs = zip(features, (image, text), strict=True)
                # The features of a frozen tower have no graph.
                trained = [(x, leaf) for x, leaf in pairs if x.requires_grad]
                towers = [output for output, _ in trained]
                gradients = [_rows(leaf, part) for _, leaf in trained]
                # Scale and bias are the same for all parts: their gradients count once.
                for output, leaf in zip((scale, bias), scalars, strict=True):
                    if last and output.requires_grad and leaf.grad is not None:
                        towers.append(output)
                        gradients.append(leaf.grad)
                torch.autograd.backward(towers, gradients)


def _rows(leaf: Tensor, part: slice) -> Tensor:
    return torch.zeros_like(leaf[part]) if leaf.grad is None else leaf.grad[part]


def _unsynchronised(module: nn.Module) -> AbstractContextManager[None]:
    """Postpone the synchronisation of gradients between processes until the last part."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return _no_sync(module)
    return nullcontext()


@contextmanager
def _no_sync(module: nn.parallel.DistributedDataParallel) -> Iterator[None]:
    with module.no_sync():
        yield


def _noise(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_noise(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
