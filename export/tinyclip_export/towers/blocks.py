"""Building blocks of the towers, on open_clip's weights: attention, block, patches, projection.

Letters in shapes: B batch, L tokens, Q query tokens, W width, H heads, D embedding, S pixels.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.text_part import text_part

OpenClip: TypeAlias = Any  # a module or weight of open_clip, read by its attribute names


class Attention(nn.Module):
    """Attention with separate q, k and v; after pruning, the inner width may differ from W."""

    def __init__(self, source: OpenClip) -> None:
        super().__init__()
        if hasattr(source, "q_proj"):  # the attention pool of a ModifiedResNet
            self.q, self.k, self.v = source.q_proj, source.k_proj, source.v_proj
            self.out = source.c_proj
        else:
            weights = source.in_proj_weight.chunk(3)
            bias = source.in_proj_bias
            biases = bias.chunk(3) if bias is not None else (None,) * 3
            self.q, self.k, self.v = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
            self.out = _linear(source.out_proj.weight, source.out_proj.bias)
        self.heads = int(source.num_heads)
        self.head_width: int = self.q.out_features // self.heads
        self.scale = self.head_width**-0.5

    def forward(self, query: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from ``query [B, Q, W]`` to ``x [B, L, W]``, adding `mask` to the scores."""
        # Written out, since scaled_dot_product_attention exports seven more shape nodes per layer.
        scores = self.scores(query, x)
        v = self._heads(self.v(x)).transpose(1, 2)
        if mask is not None:
            scores = scores + mask
        weighted_values = (scores.softmax(dim=-1) @ v).transpose(1, 2)
        out: Tensor = self.out(
            weighted_values.reshape(weighted_values.shape[0], -1, self.heads * self.head_width)
        )
        return out

    def scores(self, query: Tensor, x: Tensor) -> Tensor:
        """Return the scores ``[B, H, Q, L]`` of ``query [B, Q, W]`` and ``x [B, L, W]``."""
        q = self._heads(self.q(query)).transpose(1, 2)
        q = q if self.scale == 1.0 else q * self.scale
        scores: Tensor = q @ self._heads(self.k(x)).permute(0, 2, 3, 1)
        return scores

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.heads, self.head_width)


class Constant(nn.Module):
    """A layer whose inputs were all pruned: its bias ``[W]``."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = shared(bias)
        self.out_features = len(self.bias)

    def forward(self, *_: Tensor | None) -> Tensor:
        """Return the bias for any input."""
        return self.bias


class Block(nn.Module):
    """Pre-norm transformer block; all its heads or neurons may have been pruned."""

    def __init__(self, source: OpenClip) -> None:
        super().__init__()
        has_attention = hasattr(source.attn, "in_proj_weight")
        has_only_bias = not has_attention and not hasattr(
            getattr(source.attn, "out_proj", None), "weight"
        )
        if hasattr(source, "ln_attn") or not (has_attention or has_only_bias):
            raise ModelError(
                f"{type(source).__name__} cannot be exported: only open_clip's standard residual "
                "attention blocks can; leave block_type unset in model_cfg"
            )
        self.ln_1 = source.ln_1 if has_attention else nn.Identity()
        self.attention: Attention | Constant = (
            Attention(source.attn) if has_attention else Constant(source.attn.out_proj.bias)
        )
        self.scale_1, self.scale_2 = source.ls_1, source.ls_2
        mlp = source.mlp
        has_mlp = hasattr(mlp, "c_fc")
        self.ln_2 = source.ln_2 if has_mlp else nn.Identity()
        self.up: nn.Module = mlp.c_fc if has_mlp else nn.Identity()
        self.activation: nn.Module = mlp.gelu if has_mlp else nn.Identity()
        self.down: nn.Linear | Constant = mlp.c_proj if has_mlp else Constant(mlp.c_proj.bias)
        self.heads = int(source.attn.num_heads) if has_attention else 0
        self.neurons: int = mlp.c_fc.out_features if has_mlp else 0

    def forward(self, x: Tensor, mask: Tensor | None = None, query: Tensor | None = None) -> Tensor:
        """Return ``[B, L, W]``, or ``[B, Q, W]`` for the tokens of `query` only."""
        normed = self.ln_1(x)
        queries = normed if query is None else self.ln_1(query)
        x = x if query is None else query
        x = x + self.scale_1(self.attention(queries, normed, mask))
        neurons = self.activation(self.up(self.ln_2(x)))
        out: Tensor = x + self.scale_2(self.down(neurons))
        return out

    def scores(self, x: Tensor) -> Tensor | None:
        """Return the scores ``[B, H, L, L]`` of tokens ``[B, L, W]``; None without attention."""
        if isinstance(self.attention, Constant):
            return None
        normed = self.ln_1(x)
        return self.attention.scores(normed, normed)


class TextParts(nn.Module):
    """The layers of open_clip's text transformer, which text towers run in their own ways."""

    def __init__(self, model: OpenClip) -> None:
        super().__init__()
        text = text_part(model)
        self.tokens: nn.Embedding = text.token_embedding
        self.positions = shared(text.positional_embedding)
        token = getattr(text, "cls_emb", None)  # after the last token, in CoCa
        self.class_token = None if token is None else shared(token)
        *body, last = (Block(block) for block in text.transformer.resblocks)
        self.body, self.last = nn.ModuleList(body), last
        self.ln_final: nn.LayerNorm = text.ln_final
        self.projection = projection_of(text.text_projection)

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in order."""
        return cast("list[Block]", [*self.body, self.last])

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a text, including start, end and padding."""
        return int(self.positions.shape[0]) - (self.class_token is not None)


class PatchEmbedding(nn.Module):
    """Patch embedding as a matrix product, which is quantized like all others; a Conv is not.

    ``plain``: as a Conv.
    """

    def __init__(self, convolution: OpenClip, *, plain: bool = False) -> None:
        super().__init__()
        self.size: tuple[int, int] = convolution.kernel_size
        self.convolution = convolution if plain else None
        self.product = _linear(convolution.weight.flatten(1), convolution.bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map ``[B, 3, S, S]`` to ``[B, L, W]``, row by row, ignoring incomplete patches."""
        if self.convolution is not None:  # patches as a product have six axes in between
            tokens: Tensor = self.convolution(pixel_values).flatten(2).transpose(1, 2)
            return tokens
        high, wide = self.size
        rows, columns = (
            side // patch for side, patch in zip(pixel_values.shape[2:], self.size, strict=True)
        )
        x = pixel_values[:, :, : rows * high, : columns * wide]
        x = x.reshape(-1, x.shape[1], rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5)
        out: Tensor = self.product(x.reshape(-1, rows * columns, x.shape[3] * high * wide))
        return out


class AttentionPool(nn.Module):
    """Attention of learnt queries over the tokens, as in CoCa's image towers."""

    def __init__(self, source: OpenClip, pool: str) -> None:
        super().__init__()
        attention = source.attn
        weights = (
            attention.in_proj_weight.chunk(3)
            if attention.in_proj_weight is not None
            else (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        )
        biases = attention.in_proj_bias.chunk(3)
        q, k, v = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        layers = {"q_proj": q, "k_proj": k, "v_proj": v, "c_proj": attention.out_proj}
        self.attention = Attention(SimpleNamespace(**layers, num_heads=attention.num_heads))
        with torch.no_grad():
            queries = source.ln_q(source.query)
        # The embedding is that of the first query, or the mean of the others'.
        self.queries = shared((queries[:1] if pool == "tok" else queries[1:])[None])
        self.norm: nn.Module = source.ln_k

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``[B, L, W]`` to ``[B, Q, D]``."""
        out: Tensor = self.attention(self.queries, self.norm(x), None)
        return out


class Projection(nn.Module):
    """Product with a projection matrix ``[W, D]`` of open_clip."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = shared(matrix)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, W]`` to ``[B, D]``."""
        return x @ self.matrix


def shared(tensor: OpenClip) -> nn.Parameter:
    """Return a parameter that shares the tensor's memory and has no gradient."""
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = shared(weight)
    if bias is not None:
        layer.bias = shared(bias)
    return layer


def projection_of(source: OpenClip) -> nn.Module:
    """Return open_clip's projection, a matrix or a module or None, as a module."""
    if source is None:
        return nn.Identity()
    return source if isinstance(source, nn.Module) else Projection(source)


def unit_norm(x: Tensor) -> Tensor:
    """Scale rows ``[B, D]`` to unit norm."""
    unit: Tensor = x / x.norm(dim=-1, keepdim=True)
    return unit
