"""Forward pass of timm's vision transformers from their tensors, masked or pruned.

Shapes: B batch, L tokens, W hidden channels, A heads, D head width, P channels after pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.tensor_tower import Tensors, blocks_of, linear, norm

Timm: TypeAlias = Any  # a module of timm, read by its attribute names
Stem: TypeAlias = "Callable[[Tensor], Tensor]"  # pictures to patch tokens [B, L, W]
STEM = "trunk.patch_embed."
POOLS = ("token", "avg", "map")


@dataclass(frozen=True, slots=True)
class TimmSettings:
    """Settings of a tower that its tensors do not show."""

    layers: int
    patch: tuple[int, int] | None  # None: a stem of convolutions outputs the tokens
    prefix_tokens: int
    positions_without_prefix: bool
    pool: str
    pool_prefix: bool  # the mean includes class tokens
    head_width: int
    pool_head_width: int
    activation: nn.Module
    pool_activation: nn.Module | None
    eps: float
    rotary: Tensor | None  # [patches, 2 D]
    rotate_half: bool
    fused_attention: bool = True  # False: written out, which exports to fewer nodes

    @classmethod
    def of(cls, trunk: Timm) -> TimmSettings:
        """Read the settings of a trunk. Raises InheritanceError for one that computes otherwise."""
        if hasattr(trunk, "settings"):
            settings: TimmSettings = trunk.settings
            return settings
        name = type(trunk).__name__
        if not all(hasattr(trunk, part) for part in ("blocks", "pos_embed", "patch_embed")):
            raise InheritanceError(
                f"image tower {name} cannot be masked: it is not a vision transformer; inherit "
                "it with inherit.method=uniform"
            )
        block, pool = trunk.blocks[0], getattr(trunk, "attn_pool", None)
        has_stem = hasattr(trunk.patch_embed, "backbone")
        outside = set(trunk.patch_embed.modules()) if has_stem else set()
        norms = [
            module
            for module in trunk.modules()
            if "norm" in type(module).__name__.lower() and module not in outside
        ]
        eps = {m.eps for m in norms if isinstance(m, nn.LayerNorm)}
        rotary = getattr(trunk, "rope", None)
        unusual = (
            not isinstance(trunk.patch_embed.proj, nn.Identity if has_stem else nn.Conv2d)
            or any(not isinstance(m, nn.LayerNorm) for m in norms)
            or len(eps) != 1
            or trunk.global_pool not in POOLS
            or getattr(trunk, "rope_mixed", False)
            or getattr(block.attn, "gate", None) is not None
            or (pool is not None and (pool.pos_embed is not None or pool.pool != "token"))
        )
        if unusual:
            raise InheritanceError(
                f"image tower {name} cannot be masked: its patches, norms, pooling or rotary "
                "positions are not supported; inherit it with inherit.method=uniform"
            )
        attention = block.attn
        return cls(
            layers=len(trunk.blocks),
            patch=None if has_stem else trunk.patch_embed.proj.stride,
            prefix_tokens=trunk.num_prefix_tokens,
            positions_without_prefix=trunk.no_embed_class,
            pool=trunk.global_pool,
            pool_prefix=getattr(trunk, "pool_include_prefix", False),
            head_width=attention.proj.in_features // attention.num_heads,
            pool_head_width=0 if pool is None else pool.proj.in_features // pool.num_heads,
            activation=block.mlp.act,
            pool_activation=None if pool is None else pool.mlp.act,
            eps=eps.pop(),
            rotary=None if rotary is None else rotary.get_embed(),
            rotate_half=getattr(attention, "rotate_half", False),
        )


def run_tower(
    tensors: Tensors, settings: TimmSettings, images: Tensor, stem: Stem | None = None
) -> Tensor:
    """Return the features ``[B, embedding]`` of images, not normalised."""
    features = run_trunk(
        {k.removeprefix("trunk."): t for k, t in tensors.items() if k.startswith("trunk.")},
        settings,
        images,
        stem,
    )
    return linear(tensors, "head.proj", features) if "head.proj.weight" in tensors else features


def run_trunk(
    tensors: Tensors, settings: TimmSettings, images: Tensor, stem: Stem | None = None
) -> Tensor:
    """Return the output of timm's trunk for images ``[B, 3, H, W]``; keys lack "trunk."."""
    if settings.patch is None:
        assert stem is not None
        x = stem(images)
    else:
        weight, bias = tensors["patch_embed.proj.weight"], tensors.get("patch_embed.proj.bias")
        x = F.conv2d(images, weight, bias, stride=settings.patch).flatten(2).transpose(1, 2)
    prefix = [
        tensors[name].expand(x.shape[0], -1, -1).to(x.dtype)
        for name in ("cls_token", "reg_token")
        if name in tensors
    ]
    positions = tensors["pos_embed"].to(x.dtype)
    if settings.positions_without_prefix:
        x = torch.cat([*prefix, x + positions], dim=1)
    else:
        x = torch.cat([*prefix, x], dim=1) + positions
    x = norm(tensors, "norm_pre", x, settings.eps)
    for block in blocks_of(tensors, "blocks.", settings.layers):
        x = run_block(block, settings, x)
    x = norm(tensors, "norm", x, settings.eps)
    pooled = norm(tensors, "fc_norm", _pool(tensors, settings, x), settings.eps)
    return linear(tensors, "head", pooled) if "head.weight" in tensors else pooled


def run_block(block: Tensors, settings: TimmSettings, x: Tensor) -> Tensor:
    """Map ``[B, L, W]`` to ``[B, L, W]``; a half without heads or neurons only adds its bias."""
    residual = block["attn.proj.bias"].to(x.dtype)
    if "attn.proj.weight" in block:
        heads = _attend(block, settings, norm(block, "norm1", x, settings.eps))
        residual = linear(block, "attn.proj", norm(block, "attn.norm", heads, settings.eps))
    x = x + _scaled(block, ("ls1.gamma", "gamma_1"), residual)
    down = "mlp.w2" if "mlp.w2.bias" in block else "mlp.fc2"
    residual = block[f"{down}.bias"].to(x.dtype)
    if f"{down}.weight" in block:
        y = norm(block, "norm2", x, settings.eps)
        residual = linear(block, down, _neurons(block, settings, y))
    return x + _scaled(block, ("ls2.gamma", "gamma_2"), residual)


def _neurons(block: Tensors, settings: TimmSettings, x: Tensor) -> Tensor:
    """Return the neurons ``[B, L, I]`` of normed tokens."""
    if "mlp.w0.weight" in block:  # ViTamin's
        x = norm(block, "mlp.norm", x, settings.eps)
        gate: Tensor = settings.activation(linear(block, "mlp.w0", x))
        return gate * linear(block, "mlp.w1", x)
    if "mlp.fc1.weight" in block:
        neurons = settings.activation(linear(block, "mlp.fc1", x))
    else:
        gate = settings.activation(linear(block, "mlp.fc1_g", x))
        neurons = gate * linear(block, "mlp.fc1_x", x)
    return norm(block, "mlp.norm", neurons, settings.eps)


def _attend(block: Tensors, settings: TimmSettings, x: Tensor) -> Tensor:
    """Return the heads' outputs ``[B, L, A · D]``."""
    if "attn.qkv.weight" in block:
        bias = block.get("attn.qkv.bias")
        if "attn.q_bias" in block:
            q_bias, v_bias = block["attn.q_bias"], block["attn.v_bias"]
            bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        parts = F.linear(x, block["attn.qkv.weight"], bias).chunk(3, dim=-1)
    else:
        parts = tuple(linear(block, f"attn.{name}_proj", x) for name in "qkv")
    q, k, v = (
        part.view(*part.shape[:2], -1, settings.head_width).transpose(1, 2) for part in parts
    )
    q = norm(block, "attn.q_norm", q, settings.eps)
    k = norm(block, "attn.k_norm", k, settings.eps)
    q, k = (_rotated(part, settings).to(v.dtype) for part in (q, k))
    return _attention(q, k, v, settings)


def _attention(q: Tensor, k: Tensor, v: Tensor, settings: TimmSettings) -> Tensor:
    """Return the heads' outputs ``[B, L, A · D]`` of ``[B, A, L, D]``."""
    if settings.fused_attention:
        heads = F.scaled_dot_product_attention(q, k, v)
    else:
        heads = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return heads.transpose(1, 2).flatten(2)


def _rotated(x: Tensor, settings: TimmSettings) -> Tensor:
    """Rotate pairs of channels of ``[B, A, L, D]`` by position; class tokens are unchanged."""
    if settings.rotary is None:
        return x
    sine, cosine = settings.rotary.to(x.device).chunk(2, dim=-1)
    first, rest = x[:, :, : settings.prefix_tokens], x[:, :, settings.prefix_tokens :]
    if settings.rotate_half:
        low, high = rest.chunk(2, dim=-1)
        turned = torch.cat([-high, low], dim=-1)
    else:
        turned = torch.stack([-rest[..., 1::2], rest[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([first, rest * cosine + turned * sine], dim=2)


def _pool(tensors: Tensors, settings: TimmSettings, x: Tensor) -> Tensor:
    """Return ``[B, P]`` of tokens ``[B, L, W]``."""
    if settings.pool == "token":
        return x[:, 0]
    if settings.pool == "avg":
        return x[:, 0 if settings.pool_prefix else settings.prefix_tokens :].mean(dim=1)
    width = settings.pool_head_width
    latent = tensors["attn_pool.latent"].expand(x.shape[0], -1, -1).to(x.dtype)
    query = linear(tensors, "attn_pool.q", latent)
    parts = (query, *linear(tensors, "attn_pool.kv", x).chunk(2, dim=-1))
    q, k, v = (part.view(*part.shape[:2], -1, width).transpose(1, 2) for part in parts)
    y = linear(tensors, "attn_pool.proj", _attention(q, k, v, settings))
    assert settings.pool_activation is not None
    normed = norm(tensors, "attn_pool.norm", y, settings.eps)
    neurons = settings.pool_activation(linear(tensors, "attn_pool.mlp.fc1", normed))
    return (y + linear(tensors, "attn_pool.mlp.fc2", neurons))[:, 0]


def _scaled(block: Tensors, names: tuple[str, ...], residual: Tensor) -> Tensor:
    """Apply a block's layer scale, under whichever of the names it has, if any."""
    for name in names:
        if name in block:
            return residual * block[name]
    return residual
