"""How much errors in the rows of the token table change the embeddings of texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyclip_export.quantization.block_rounding import Matrix

if TYPE_CHECKING:
    from torch import Tensor, nn

TEXTS = 128  # enough for the mean
PROBES = 4  # random directions of the embedding for each batch


def table_sensitivity(tower: nn.Module, batches: Iterable[npt.NDArray[Any]]) -> Matrix | None:
    """Return the mean of JᵀJ, ``[W, W]``, for the derivative J of an embedding by a token's row.

    ``batches`` are ids ``[B, L]``. The mean over all tokens is estimated from products of J with
    random signs. The table is the largest `nn.Embedding` of the tower; None without one.
    """
    import torch
    from torch import nn

    tables = [each for each in tower.modules() if isinstance(each, nn.Embedding)]
    if not tables:
        return None
    table = max(tables, key=lambda each: each.weight.numel())
    rows: list[Tensor] = []

    def cut(_module: nn.Module, _ids: Any, output: Tensor) -> Tensor:  # noqa: ANN401
        rows.append(output.detach().requires_grad_())
        return rows[-1]

    generator, width = torch.Generator().manual_seed(0), table.embedding_dim
    total, count = np.zeros((width, width)), 0
    handle = table.register_forward_hook(cut)
    try:
        for ids in batches:
            rows.clear()
            with torch.enable_grad():
                output = tower(torch.from_numpy(ids))
                for _ in range(PROBES):
                    signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1.0
                    loss = (output * signs).sum()
                    (slope,) = torch.autograd.grad(loss, rows[0], retain_graph=True)
                    each = slope.reshape(-1, width).double().numpy()
                    total += each.T @ each
                    count += len(each)
    finally:
        handle.remove()
    return total / max(count, 1)
