"""The CUDA path of a run: same loss as the CPU at float32, and mixed precision trains."""

import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig
from tinyclip_edge.train import distill, read_events

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def losses(tmp_path, toy_teacher_folder):
    shard = write_shard(tmp_path / "train.tar", toy_samples())

    def run(device, precision):
        config = RunConfig.model_validate(
            {
                "teacher": {"model": str(toy_teacher_folder)},
                "student": {
                    "model": {
                        "vision_cfg": {"width": 64, "layers": 2},
                        "text_cfg": {"width": 64, "heads": 1, "layers": 2},
                    }
                },
                "loss": {"teacher_logit_scale": 100.0},
                "data": {"train": str(shard)},
                "optim": {"lr": 1e-3, "batch_size": 16, "steps": 10},
                "run": {"device": device, "precision": precision, "log_every": 1},
            }
        )
        out = tmp_path / f"{device}-{precision}"
        distill(config, out)
        events = read_events(out / "events.jsonl")
        return [event["loss"] for event in events if event["kind"] == "step"]

    return run


def test_float32_follows_the_cpu(losses):
    assert losses("cuda", "fp32") == pytest.approx(losses("cpu", "fp32"), rel=1e-3)


def test_bfloat16_trains(losses):
    curve = losses("cuda", "bf16")
    assert curve[-1] < curve[0]
