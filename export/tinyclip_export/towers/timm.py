"""Image tower from timm in open_clip, prepared for inference with shared weights."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from tinyclip_export.towers.blocks import OpenClip, shared, unit_norm


class TimmTower(nn.Module):
    """timm image encoder and open_clip's head, ``pixel_values [B, 3, S, S]`` to ``[B, D]``."""

    def __init__(self, model: OpenClip) -> None:
        super().__init__()
        visual = _for_inference(model.visual)
        self.trunk: nn.Module = visual.trunk
        self.head: nn.Module = visual.head

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode normalised pixels ``[B, 3, H, W]`` to ``[B, D]`` of unit norm."""
        return unit_norm(self.head(self.trunk(pixel_values)))


def _for_inference(visual: OpenClip) -> OpenClip:
    """Return a copy that shares its tensors' memory, with branches fused where timm can.

    MobileCLIP's image towers train up to four parallel branches per block, which are equivalent to
    one convolution in inference. Attention is written out, as in our own towers.
    """
    from timm.utils.model import reparameterize_model

    shared_tensors = {id(tensor): shared(tensor) for tensor in visual.parameters()}
    shared_tensors |= {id(tensor): tensor for tensor in visual.buffers()}
    out: OpenClip = copy.deepcopy(visual, shared_tensors).eval()
    out.trunk = reparameterize_model(out.trunk, inplace=True)
    for module in out.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return out
