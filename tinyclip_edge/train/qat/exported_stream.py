"""How an export changes a tower's residual stream before rounding: it removes means.

Where norms are exported without subtracting means, the weights that write into the stream lose
theirs, and the biases of norms move into the products that follow. This only affects rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.open_clip_kinds import TEXT, VIT
from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.inheritance.tower_kinds import recognise

# As in tinyclip_export.onnx_passes.split_ffn: bytes of a picture's neurons, columns of a kernel.
MIN_BYTES, MAX_BYTES = 512 * 1024, 1024 * 1024
COLUMNS = 32


@dataclass(frozen=True, slots=True)
class ExportedStream:
    """Parameters of a tower by ``id``, which stays the same during training."""

    writers: frozenset[int] = frozenset()  # weights whose outputs are added to the stream
    norm_biases: frozenset[int] = frozenset()  # that move into products
    sources: frozenset[int] = frozenset()  # biases of norms whose outputs begin the stream
    downs: frozenset[int] = frozenset()  # second weights of an image tower's feed-forward layers


UNCHANGED = ExportedStream()


def exported_stream(model: nn.Module, tower: TowerName) -> ExportedStream:
    """Return what the export changes in one tower of a CLIP: nothing outside open_clip's own kinds.

    As in the export, a tower with layer scale, or without biases in its products, keeps its means.
    Unlike in the export, so does an image tower that does not begin with a norm.
    """
    try:
        kind, prefix = recognise(model.state_dict(), tower)
    except InheritanceError:
        return UNCHANGED
    if kind not in (VIT, TEXT):
        return UNCHANGED
    blocks = list(model.get_submodule((prefix + kind.blocks).rstrip(".")))  # type: ignore[call-overload]
    downs = frozenset(id(block.mlp.c_proj.weight) for block in blocks if tower == "image")
    first = dict(model.named_modules()).get(f"{prefix}ln_pre")
    source = first.bias if isinstance(first, nn.LayerNorm) else None
    begins_with_norm = source is not None
    if not all(_loses_means(block) for block in blocks) or begins_with_norm is (kind is TEXT):
        return ExportedStream(downs=downs)
    parameters = dict(model.named_parameters())
    names = [] if begins_with_norm else [name for name in kind.writes if name in kind.outer]
    outer = [parameters.get(prefix + name) for name in names]
    inner = [part.weight for block in blocks for part in (block.attn.out_proj, block.mlp.c_proj)]
    biases = [norm.bias for block in blocks for norm in (block.ln_1, block.ln_2)]
    return ExportedStream(
        frozenset(id(weight) for weight in (*inner, *outer) if weight is not None),
        frozenset(id(bias) for bias in biases if bias is not None),
        frozenset({id(source)} if begins_with_norm else ()),
        downs,
    )


def without_mean(weight: Tensor) -> Tensor:
    """Return a weight ``[N, K]`` whose outputs have no mean."""
    exact = weight.double()
    return (exact - exact.mean(dim=0)).to(weight.dtype)


def half_of(x: Tensor, neurons: int) -> int | None:
    """Return the column at which a layer of ``x [B, L, N]`` is split; None if it stays whole."""
    rows = x.shape[1] if x.ndim == 3 else 0
    if neurons < 2 * COLUMNS or not MIN_BYTES < 4 * neurons * rows <= MAX_BYTES:
        return None
    return -(-neurons // (2 * COLUMNS)) * COLUMNS


def _loses_means(block: Any) -> bool:  # noqa: ANN401 - open_clip's, or ours with the same names
    products = (block.attn.in_proj_bias, block.mlp.c_fc.bias)
    scales = (getattr(block, name, None) for name in ("ls_1", "ls_2"))
    return all(bias is not None for bias in products) and all(
        scale is None or isinstance(scale, nn.Identity) for scale in scales
    )
