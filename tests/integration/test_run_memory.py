"""What a step says when the device's memory ends, and the peak that is told."""

import resource

import pytest
import torch

from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.train import distill
from tinyclip_edge.train.memory import peak_bytes
from tinyclip_edge.train.tasks.distill_task import DistillTask
from tinyclip_edge.train.tasks.ensemble import FrozenEncoder
from toy_runs import events_of, losses

pytestmark = pytest.mark.usefixtures("no_report")

CUDA_SAYS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB\nmore"
)


@pytest.fixture
def starved(monkeypatch):
    """The third step finds no memory."""
    terms, calls = DistillTask.terms, []

    def starving(task, batch):
        calls.append(batch)
        if len(calls) == 3:
            raise torch.OutOfMemoryError(CUDA_SAYS)
        return terms(task, batch)

    monkeypatch.setattr(DistillTask, "terms", starving)


def test_out_of_memory_names_the_cures_and_keeps_the_checkpoint(make, tmp_path, starved):
    config = make(run={"save_every": 1})
    with pytest.raises(TinyClipError) as caught:
        distill(config, tmp_path / "run")
    size = config.optim.batch_size
    assert str(caught.value) == (
        f"out of device memory at step 3 with optim.batch_size {size}; set "
        f"run.grad_checkpointing=true and run.micro_batch={size // 2} and continue with --resume "
        f"(CUDA out of memory)"
    )
    assert caught.value.exit_code == 2
    assert events_of(tmp_path / "run", "checkpoint")[-1]["step"] == 2
    again = make(run={"grad_checkpointing": True, "micro_batch": size // 2})
    assert distill(again, tmp_path / "run", resume=True).steps == config.optim.steps


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"cache_teacher": False},
        pytest.param({"memory_gb": 0.0}, marks=pytest.mark.slow),
    ],
)
def test_a_live_teacher_answers_in_parts_too(make, tmp_path, monkeypatch, data):
    at_once, parts, rows = tmp_path / "whole", tmp_path / "parts", []
    distill(make(data={**data, "val": None}), at_once)
    for name in ("encode_image", "encode_text"):
        encode = getattr(FrozenEncoder, name)
        monkeypatch.setattr(
            FrozenEncoder, name, lambda self, x, e=encode: rows.append(len(x)) or e(self, x)
        )
    distill(make(data={**data, "val": None}, run={"micro_batch": 5}), parts)
    assert max(rows) == 5  # of 16
    assert losses(parts) == pytest.approx(losses(at_once), rel=1e-4)  # kept in 16 bits


def test_the_peak_is_the_process_own():
    peak = peak_bytes()
    assert peak == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.1)
