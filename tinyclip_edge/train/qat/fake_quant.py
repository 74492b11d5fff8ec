"""Products rounded as in an exported int8 tower, with straight-through gradients.

Letters in shapes: B rows of a batch, L tokens, K inputs, N outputs, W width, A heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from tinyclip_edge.errors import ConfigError, ModelError, did_you_mean
from tinyclip_edge.train.qat.exported_stream import (
    UNCHANGED,
    ExportedStream,
    half_of,
    without_mean,
)
from tinyclip_edge.train.qat.near_values import (
    LARGEST,
    as_int8,
    as_uint8,
    byte_rows,
    half_bytes,
    table_blocks,
)

WEIGHTS = (*LARGEST, "4 bit")
TABLES = ("8 bit", "4 bit", "float")
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
    ``centred``: norms are exported without means. ``halves``: feed-forward layers are split.
    """

    weights: str = "overflow_safe"
    token_table: str = "8 bit"
    per_row: bool = True
    centred: bool = False
    halves: bool = False

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


def rounded(
    how: Rounding | None, stream: ExportedStream = UNCHANGED
) -> AbstractContextManager[object]:
    """Return a context in which products with weights are rounded; None leaves them float.

    ``stream`` is that of the tower that runs in the context.
    """
    return nullcontext() if how is None else RoundedProducts(how, stream)


class RoundedProducts(TorchFunctionMode):
    """Rounds what a graph would quantize: products with a weight, and the token table.

    As in the graph, it does not matter which module contains a product. Raises ModelError for
    attention with a padding mask, which cannot be exported.
    """

    def __init__(self, how: Rounding, stream: ExportedStream = UNCHANGED) -> None:
        super().__init__()
        self._how = how
        self._writers = stream.writers if how.centred else frozenset()
        self._norm_biases = stream.norm_biases if how.centred else frozenset()
        self._sources = stream.sources if how.centred else frozenset()
        self._downs = stream.downs if how.halves else frozenset()
        self._bare = WeakIdKeyDictionary()  # output of a norm -> output without bias, and bias
        self._near: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}  # weight and rounded form
        self._rounded_forms: Mapping[object, Callable[..., Any]] = {
            F.linear: self._linear,
            F.conv2d: self._patches,
            F.embedding: self._embedding,
            F.layer_norm: self._norm,
            Tensor.__getitem__: partial(self._rows, Tensor.__getitem__),
            Tensor.transpose: partial(self._rows, Tensor.transpose),
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

    def _linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, centred: bool | None = None
    ) -> Tensor:
        if centred is None:
            centred = id(weight) in self._writers
        half = half_of(x, weight.shape[1]) if id(weight) in self._downs else None
        if half is not None:
            first = self._linear(x[..., :half], weight[:, :half], bias, centred=centred)
            return first + self._linear(x[..., half:], weight[:, half:], centred=centred)
        if bias is not None and x in self._bare:
            x, shift = self._bare[x]
            bias = bias + F.linear(shift, weight)
        if centred and bias is not None:
            bias = bias - bias.mean()
        if self._how.weights != "4 bit":
            x = straight(x, as_uint8(x, per_row=self._how.per_row))
        return F.linear(x, straight(weight, self._rounded(weight, centred)), bias)

    def _norm(self, x: Tensor, shape: Sequence[int], weight: Tensor | None = None,
              bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:  # fmt: skip
        if bias is None or id(bias) not in self._norm_biases:
            normed = F.layer_norm(x, shape, weight, bias, eps)
            return _less_mean(normed) if id(bias) in self._sources else normed
        # With rounded weights a small mean remains in the stream; the exported norm keeps it too.
        bare = x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt()
        bare = bare if weight is None else bare * weight
        normed = bare + bias
        self._bare[normed] = bare, bias
        return normed

    def _rows(self, select: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        """Select or move rows of a norm's output and remember that they are one."""
        rows = select(x, *args)
        if id(x) in self._writers:  # position embeddings, which are added to the stream
            return _less_mean(rows)
        if x in self._bare and rows.shape[-1:] == x.shape[-1:]:
            bare, bias = self._bare[x]
            self._bare[rows] = select(bare, *args), bias
        return rows

    def _patches(self, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Round a patch embedding, which is exported as a product, but no other convolution."""
        bound = _CONVOLUTION.bind(x, weight, *args, **kwargs)
        bound.apply_defaults()
        high, wide = weight.shape[2:]
        if bound.args[3:] != ((high, wide), (0, 0), (1, 1), 1) or high * wide == 1:
            return F.conv2d(x, weight, *args, **kwargs)
        patches = F.unfold(x, (high, wide), stride=(high, wide)).transpose(1, 2)
        centred = id(weight) in self._writers
        out = self._linear(patches, weight.flatten(1), bound.arguments["bias"], centred=centred)
        return out.transpose(1, 2).reshape(len(x), -1, x.shape[2] // high, x.shape[3] // wide)

    def _rounded(self, weight: Tensor, centred: bool) -> Tensor:
        """Return a weight's rounded values, cached for texts of several lengths."""
        key = (weight.data_ptr(), weight._version, weight.shape, weight.stride(), centred)
        if key not in self._near:
            kind = self._how.weights
            exact = without_mean(weight.detach()) if centred else weight
            near = half_bytes(exact) if kind == "4 bit" else as_int8(exact, kind)
            self._near[key] = weight, near  # holding the weight keeps its address from being reused
        return self._near[key][1]

    def _matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        if isinstance(weight, nn.Parameter) and weight.ndim == 2:
            return self._linear(x, weight.T)
        return torch.matmul(x, weight)

    def _embedding(self, ids: Tensor, table: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        # Scales belong to single rows, so only the rows that were read are rounded.
        rows = F.embedding(ids, table, *args, **kwargs)
        if id(table) in self._writers:
            rows = _less_mean(rows)
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
            self._linear(self._rows(Tensor.transpose, arguments[side], 0, 1), weight, bias)
            .reshape(*arguments[side].shape[1::-1], arguments["num_heads"], -1)
            .transpose(1, 2)
            for side, weight, bias in zip(sides, weights, biases, strict=True)
        )
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=arguments.get("attn_mask"))
        joined = heads.transpose(1, 2).flatten(2)
        out = self._linear(joined, arguments["out_proj_weight"], arguments["out_proj_bias"])
        return out.transpose(0, 1), None


def _less_mean(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=-1, keepdim=True)


def straight(x: Tensor, near: Tensor) -> Tensor:
    """Return ``near`` with the gradient of ``x``."""
    return x + (near - x).detach()
