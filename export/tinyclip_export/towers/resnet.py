"""Image tower of a ModifiedResNet CLIP: convolutions, and an attention pool with a single query."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinyclip_edge.inheritance.masked_resnet import EmptyBottleneck
from tinyclip_export.towers.blocks import Attention, OpenClip, shared, unit_norm


class ResNetTower(nn.Module):
    """ResNet image encoder, ``pixel_values [B, 3, S, S]`` to unit-norm ``[B, D]``.

    Each BatchNorm is folded into the convolution before it, which leaves Conv and Relu for int8.
    """

    def __init__(self, model: OpenClip) -> None:
        super().__init__()
        visual = model.visual
        self.stem = nn.Sequential(
            *(fold_batch_norm(visual.conv1, visual.bn1), visual.act1),
            *(fold_batch_norm(visual.conv2, visual.bn2), visual.act2),
            *(fold_batch_norm(visual.conv3, visual.bn3), visual.act3),
            pool_as_convolution(visual.avgpool, visual.conv3.out_channels),
        )
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        blocks = (block for stage in stages for block in stage)
        self.blocks = nn.Sequential(
            *(
                Shortcut(block) if isinstance(block, EmptyBottleneck) else Bottleneck(block)
                for block in blocks
            )
        )
        self.positions = shared(visual.attnpool.positional_embedding)
        self.pool = Attention(visual.attnpool)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode normalised pixels ``[B, 3, H, W]`` to ``[B, D]`` of unit norm."""
        x = self.blocks(self.stem(pixel_values)).flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positions
        return unit_norm(self.pool(x[:, :1], x, None)[:, 0])  # the mean is the only query


class Bottleneck(nn.Module):
    """Residual block of three convolutions, with average pooling in place of strides."""

    def __init__(self, source: OpenClip) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(fold_batch_norm(source.conv1, source.bn1), source.act1),
            *(fold_batch_norm(source.conv2, source.bn2), source.act2),
            pool_as_convolution(source.avgpool, source.conv2.out_channels),
            fold_batch_norm(source.conv3, source.bn3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if source.downsample is not None:
            self.shortcut = nn.Sequential(*_downsample(source))
        self.activation: nn.Module = source.act3

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C', H / stride, W / stride]``."""
        out: Tensor = self.activation(self.inner(x) + self.shortcut(x))
        return out


class Shortcut(nn.Module):
    """A block whose inner channels were all pruned: its shortcut, to which a constant is added."""

    def __init__(self, source: EmptyBottleneck) -> None:
        super().__init__()
        offset = source.offset().detach().flatten()
        if source.downsample is not None:
            pool, conv = _downsample(source)
        else:  # as a convolution, like an average pool
            channels = len(offset)
            pool, conv = nn.Identity(), nn.Conv2d(channels, channels, 1, groups=channels)
            conv.weight = nn.Parameter(torch.ones_like(conv.weight), requires_grad=False)
            conv.bias = nn.Parameter(torch.zeros_like(offset), requires_grad=False)
        assert conv.bias is not None
        conv.bias.add_(offset)
        self.layers = nn.Sequential(pool, conv, source.act3)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C', H / stride, W / stride]``."""
        out: Tensor = self.layers(x)
        return out


def _downsample(source: OpenClip) -> tuple[nn.Module, nn.Conv2d]:
    """Return the pool and the convolution of a block's shortcut."""
    pool, conv, norm = source.downsample
    return pool_as_convolution(pool, conv.in_channels), fold_batch_norm(conv, norm)


def pool_as_convolution(pool: nn.Module, channels: int) -> nn.Module:
    """Return an average pool as a depthwise convolution, or the identity if it does not pool.

    Runtimes have a fast integer kernel for convolutions, but rarely for pools; weights of 1/4 are
    exact.
    """
    side = pool.kernel_size if isinstance(pool, nn.AvgPool2d) else 1
    if side == 1:
        return nn.Identity()
    out = nn.Conv2d(channels, channels, side, stride=side, groups=channels, bias=False)
    mean = torch.full_like(out.weight, 1.0 / out.weight[0].numel())
    out.weight = nn.Parameter(mean, requires_grad=False)
    return out


def fold_batch_norm(conv: nn.Conv2d, norm: OpenClip) -> nn.Conv2d:
    """Return the convolution with a BatchNorm folded into its weight and bias.

    Computed in float64, so that values are rounded to float32 once.
    """
    factor = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    conv_bias = 0.0 if conv.bias is None else conv.bias.detach().double()
    bias = norm.bias.detach().double() + (conv_bias - norm.running_mean.double()) * factor
    out = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        device="meta",
    )
    weight = conv.weight.detach().double() * factor.view(-1, 1, 1, 1)
    out.weight = nn.Parameter(weight.float(), requires_grad=False)
    out.bias = nn.Parameter(bias.float(), requires_grad=False)
    return out
