"""How fast this machine trains, measured with one transformer layer in about a second."""

from __future__ import annotations

import time
from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TERA = 1e12
SECONDS = 0.5  # length of the measurement
WIDTH, TOKENS = 256, 50
ROWS = {"cpu": 64, "cuda": 1024}


def training_tflops(device: torch.device, precision: str) -> float:
    """Return TFLOP/s of forward and backward passes on a device, in ``run.precision``.

    A small CLIP trains at about this rate; wide towers use a GPU better.
    """
    layer = nn.TransformerEncoderLayer(
        WIDTH, 4, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).to(device)
    tokens = torch.randn(ROWS.get(device.type, ROWS["cpu"]), TOKENS, WIDTH, device=device)
    cast = precision in ("bf16", "fp16")
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    context = torch.autocast(device.type, dtype) if cast else nullcontext()
    with context:
        counter = FlopCounterMode(display=False)
        with counter:  # the first pass warms up as well
            layer(tokens).sum().backward()
        passes, started = 0, _now(device)
        while (seconds := _now(device) - started) < SECONDS:
            layer(tokens).sum().backward()
            passes += 1
    return counter.get_total_flops() * passes / seconds / TERA


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
