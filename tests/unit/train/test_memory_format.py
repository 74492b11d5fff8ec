"""Which towers train with channels last."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from families import family
from tinyclip_edge.train.stages.factory import takes_channels_last


@pytest.mark.parametrize(
    ("name", "on_cpu", "on_gpu"),
    [("ViT", False, False), ("ResNet", True, True), ("MobileCLIP 2", False, True)],
)
def test_towers_of_convolutions_but_for_groups_on_the_cpu(name, on_cpu, on_gpu):
    visual = family(name).model.visual
    assert takes_channels_last(visual, torch.device("cpu")) is on_cpu
    assert takes_channels_last(visual, torch.device("cuda")) is on_gpu


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc fills freed memory")
def test_a_fastvit_trains_where_freed_memory_is_filled():
    """With channels last this ended in SIGSEGV or NaN within a few steps."""
    code = (
        "import torch\n"
        "from tinyclip_edge.families.building import family\n"
        "from tinyclip_edge.train.stages.factory import takes_channels_last\n"
        "visual = family('MobileCLIP 2').model.visual.train()\n"
        "last = takes_channels_last(visual, torch.device('cpu'))\n"
        "visual.to(memory_format=torch.channels_last if last else torch.contiguous_format)\n"
        "optimizer = torch.optim.AdamW(visual.parameters(), lr=1e-3, fused=True)\n"
        "for _ in range(6):\n"
        "    features = visual(torch.randn(16, 3, *visual.image_size))\n"
        "    loss = torch.nn.functional.normalize(features, dim=-1).pow(3).sum()\n"
        "    optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
        "    assert loss.isfinite()\n"
        "    assert all(p.grad is None or p.grad.isfinite().all() for p in visual.parameters())\n"
    )
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
