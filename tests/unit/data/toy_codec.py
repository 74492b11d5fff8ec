"""A codec of tiny pictures without normalisation, for tests that look at no model."""

import numpy as np
import torch

from tinyclip_edge.data import PixelCodec


def toy_codec(side=8):
    def pixels(image):
        values = np.asarray(image.convert("RGB").resize((side, side)), dtype=np.float32) / 255
        return torch.from_numpy(values).permute(2, 0, 1)

    return PixelCodec(pixels, (0, 0, 0), (1, 1, 1))
