"""The accelerator of a run: device, precision, and the processes that a launcher started."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from tinyclip_edge.config import RunSection
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.train.distributed import DistributedContext

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
PATIENCE = timedelta(hours=2)  # timeout of processes that wait for an evaluation or a checkpoint


def make_accelerator(run: RunSection) -> Accelerator:
    """Return accelerate's state for device and precision; ConfigError if the machine lacks them."""
    cuda = torch.cuda.is_available()
    if run.device == "cuda" and not cuda:
        raise ConfigError("run.device is cuda, but torch sees no CUDA device; set run.device=cpu")
    on_cpu = run.device == "cpu" or not cuda
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by launchers
    if not on_cpu and here > torch.cuda.device_count():
        raise ConfigError(
            f"{here} processes were started on a machine with {torch.cuda.device_count()} CUDA "
            "devices; start one per device, or set run.device=cpu"
        )
    if run.precision == "fp16" and on_cpu:
        raise ConfigError("run.precision fp16 needs a CUDA device; set run.precision to fp32")
    for name, kind in SHARDED.items():
        if os.environ.get(name, "").lower() == "true":
            raise ConfigError(
                f"{kind} is not supported: models of CLIP's size fit on one device, and so does a "
                "large batch with run.micro_batch; launch without it"
            )
    # accelerate remembers the first choice of a process, but a second run may choose differently.
    AcceleratorState._reset_state(reset_partial_state=DistributedContext().count == 1)
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    # On a CPU the fused kernel's bf16 gradient takes 2 to 4 times as long at 17 to 65 tokens. The
    # switch has CUDA in its name but affects every device.
    torch.backends.cuda.enable_flash_sdp(not (on_cpu and run.precision == "bf16"))
    return Accelerator(mixed_precision=MIXED[run.precision], cpu=on_cpu, kwargs_handlers=[patience])
