"""Products rounded as in an exported int8 tower, with straight-through gradients.

Letters in shapes: B rows of a batch, L tokens, K inputs, N outputs, W width, A heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tinyclip_edge.errors import ConfigError, ModelError, did_you_mean

LEVELS = 255  # steps of a uint8 activation
LARGEST = {"overflow_safe": 127, "7 bit": 64, "8 bit": 127}  # largest int8 weight by weight range
WEIGHTS = (*LARGEST, "4 bit")
TABLES = ("8 bit", "4 bit", "float")
BLOCK = 32  # neighbouring values that share a scale in 4 bits
SHRINKS = tuple(0.7 + 0.05 * step for step in range(7))  # clipping factors tried for a 4-bit table
_ATTENTION = inspect.signature(F.multi_head_attention_forward)


def _convolution(  # F.conv2d has no signature
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: object = (1, 1),
    padding: object = (0, 0),
    dilation: object = (1, 1),
    groups: int = 1,
) -> None: ...


_CONVOLUTION = inspect.signature(_convolution)


@dataclass(frozen=True, slots=True)
class Rounding:
    """The rounding that an export applies to a tower.

    Norms, products of activations, and convolutions other than the patch embedding stay float.
    ``weights``: one of the int8 recipe's weight ranges (int8 with a scale per output column, with
    uint8 activations), or "4 bit" (blocks of a weight-only file, with float activations).
    ``per_row``: each row of a batch has the scale that it would have alone, as in a bundle that is
    verified one input at a time; otherwise the whole batch shares a scale, as in a single call.
    """

    weights: str = "overflow_safe"
    token_table: str = "8 bit"
    per_row: bool = True

    def __post_init__(self) -> None:
        for key, choices in (("weights", WEIGHTS), ("token_table", TABLES)):
            value = getattr(self, key)
            if value not in choices:
                raise ConfigError(
                    f"rounding: {key} '{value}' is unknown{did_you_mean(value, choices)}"
                )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def rounded(how: Rounding | None) -> AbstractContextManager[object]:
    """Return a context in which products with weights are rounded; None leaves them float."""
    return nullcontext() if how is None else RoundedProducts(how)


class RoundedProducts(TorchFunctionMode):
    """Rounds what a graph would quantize: products with a weight, and the token table.

    As in the graph, the module that contains a product does not matter. Raises ModelError for
    attention with a padding mask, which cannot be exported.
    """

    def __init__(self, how: Rounding) -> None:
        super().__init__()
        self._how = how
        self._near: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}  # weight and rounded form
        self._rounded_forms: Mapping[object, Callable[..., Any]] = {
            F.linear: self._linear,
            F.conv2d: self._patches,
            F.embedding: self._embedding,
            F.multi_head_attention_forward: self._attention,
            torch.matmul: self._matmul,
            Tensor.matmul: self._matmul,
            Tensor.__matmul__: self._matmul,
        }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run ``func``, or its rounded form."""
        return self._rounded_forms.get(func, func)(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401
        self._near.clear()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._how.weights != "4 bit":
            x = straight(x, as_uint8(x, per_row=self._how.per_row))
        return F.linear(x, straight(weight, self._rounded(weight)), bias)

    def _patches(self, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Round a patch embedding, which is exported as a product, but no other convolution."""
        bound = _CONVOLUTION.bind(x, weight, *args, **kwargs)
        bound.apply_defaults()
        high, wide = weight.shape[2:]
        if bound.args[3:] != ((high, wide), (0, 0), (1, 1), 1) or high * wide == 1:
            return F.conv2d(x, weight, *args, **kwargs)
        patches = F.unfold(x, (high, wide), stride=(high, wide)).transpose(1, 2)
        out = self._linear(patches, weight.flatten(1), bound.arguments["bias"])
        return out.transpose(1, 2).reshape(len(x), -1, x.shape[2] // high, x.shape[3] // wide)

    def _rounded(self, weight: Tensor) -> Tensor:
        """Return a weight's rounded values, cached for texts of several lengths."""
        key = (weight.data_ptr(), weight._version, weight.shape, weight.stride())
        if key not in self._near:
            kind = self._how.weights
            near = half_bytes(weight) if kind == "4 bit" else as_int8(weight, kind)
            self._near[key] = weight, near  # holding the weight keeps its address from being reused
        return self._near[key][1]

    def _matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        if isinstance(weight, nn.Parameter) and weight.ndim == 2:
            return self._linear(x, weight.T)
        return torch.matmul(x, weight)

    def _embedding(self, ids: Tensor, table: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        # Scales belong to single rows, so only the rows that were read are rounded.
        rows = F.embedding(ids, table, *args, **kwargs)
        if self._how.token_table == "float":
            return rows
        near = byte_rows if self._how.token_table == "8 bit" else table_blocks
        return straight(rows, near(rows))

    def _attention(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:  # noqa: ANN401
        """Compute ``nn.MultiheadAttention``, ``[L, B, W]``, without returning attention weights."""
        arguments = _ATTENTION.bind(*args, **kwargs).arguments
        if arguments.get("key_padding_mask") is not None:
            raise ModelError("attention with a padding mask does not support int8 fine-tuning")
        sides = ("query", "key", "value")
        if arguments.get("use_separate_proj_weight"):
            weights = [arguments[f"{side[0]}_proj_weight"] for side in sides]
        else:
            weights = arguments["in_proj_weight"].chunk(3)
        bias = arguments["in_proj_bias"]
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        q, k, v = (
            self._linear(arguments[side].transpose(0, 1), weight, bias)
            .reshape(*arguments[side].shape[1::-1], arguments["num_heads"], -1)
            .transpose(1, 2)
            for side, weight, bias in zip(sides, weights, biases, strict=True)
        )
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=arguments.get("attn_mask"))
        joined = heads.transpose(1, 2).flatten(2)
        out = self._linear(joined, arguments["out_proj_weight"], arguments["out_proj_bias"])
        return out.transpose(0, 1), None


def straight(x: Tensor, near: Tensor) -> Tensor:
    """Return ``near`` with the gradient of ``x``."""
    return x + (near - x).detach()


@torch.no_grad()
def as_uint8(x: Tensor, *, per_row: bool) -> Tensor:
    """Return ``x [B, ...]`` rounded by onnxruntime's DynamicQuantizeLinear, times its scale."""
    flat = x.reshape(len(x), -1) if per_row else x.reshape(1, -1)
    low, high = flat.amin(dim=1).clamp_max(0.0), flat.amax(dim=1).clamp_min(0.0)
    scale = (high - low) / LEVELS
    scale = torch.where(scale == 0.0, 1.0, scale)
    zero = (-low / scale).round().clamp(0, LEVELS)
    scale, zero = (part.view(-1, *[1] * (x.ndim - 1)) for part in (scale, zero))
    return ((x / scale).round() + zero).clamp(0, LEVELS).sub(zero).mul(scale)


@torch.no_grad()
def as_int8(weight: Tensor, weight_range: str) -> Tensor:
    """Return ``[N, K]`` as int8 weights with a scale per output column, times their scale."""
    values, scale = int8_weights(weight, weight_range)
    return values.to(weight.dtype) * scale[:, None].to(weight.dtype)


def int8_weights(weight: Tensor, weight_range: str) -> tuple[Tensor, Tensor]:
    """Return the int8 values ``[N, K]`` and scales ``[N]`` of a weight.

    "overflow_safe": any two neighbouring inputs of the same sign fit 16 bits with uint8
    activations.
    """
    exact, largest = weight.double(), LARGEST[weight_range]
    scale = exact.abs().amax(dim=1) / largest
    if weight_range == "overflow_safe":
        # A pair of opposite signs fits if its larger weight does, since its sum is smaller still.
        even = F.pad(exact, (0, exact.shape[1] % 2))
        sums = (even[:, 0::2] + even[:, 1::2]).abs_()
        scale = torch.maximum(scale, sums.amax(dim=1) / largest)
    else:
        exact, scale = weight, scale.to(weight.dtype)  # as onnxruntime divides
    scale = torch.where(scale == 0.0, 1.0, scale)
    return (exact / scale[:, None]).round(), scale


@torch.no_grad()
def half_bytes(weight: Tensor) -> Tensor:
    """Return ``[N, K]`` as 4-bit weights in blocks of 32 inputs, as MatMulNBits restores them."""
    width = weight.shape[1]
    blocks = F.pad(weight, (0, -width % BLOCK)).view(len(weight), -1, BLOCK)
    return _in_steps(blocks, _widest(blocks)).flatten(1)[:, :width]


@torch.no_grad()
def byte_rows(rows: Tensor) -> Tensor:
    """Return token rows ``[..., W]`` as int8 with one scale each, times their scale."""
    scale = rows.abs().amax(dim=-1, keepdim=True) / 127
    scale = torch.where(scale == 0.0, 1.0, scale)
    return (rows / scale).round() * scale


@torch.no_grad()
def table_blocks(rows: Tensor) -> Tensor:
    """Return token rows ``[..., W]`` in 4 bits, with the best of a few scales for each block.

    Raises ModelError for rows that do not split into blocks.
    """
    if rows.shape[-1] % BLOCK:
        raise ModelError(
            f"token table: rows of {rows.shape[-1]} values are not a multiple of {BLOCK}, as 4 "
            "bits require"
        )
    blocks = rows.reshape(*rows.shape[:-1], -1, BLOCK)
    widest = _widest(blocks)
    candidates = torch.stack([_in_steps(blocks, widest * shrink) for shrink in SHRINKS])
    best = (candidates - blocks).square().sum(-1).argmin(dim=0)
    nearest = candidates.gather(0, best[None, ..., None].expand(1, *blocks.shape))[0]
    return nearest.flatten(-2)


def _widest(blocks: Tensor) -> Tensor:
    """Return the scale at which a block's value of largest magnitude becomes -8, ``[..., 1]``."""
    extreme = blocks.gather(-1, blocks.abs().argmax(dim=-1, keepdim=True))
    scale = extreme / -8.0
    return torch.where(scale == 0.0, 1.0, scale)


def _in_steps(blocks: Tensor, scale: Tensor) -> Tensor:
    return (blocks / scale).round().clamp(-8, 7) * scale
