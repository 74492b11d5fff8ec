"""Toy runs that end alike in any number of processes."""

from __future__ import annotations

import pytest

from pair_shards import toy_samples, write_shard
from toy_runs import STUDENT

STEPS = 20
OPTIM = {"lr": 1e-3, "batch_size": 16, "steps": STEPS, "warmup": 3}
AVERAGED = {**OPTIM, "ema": 0.8}
MASKS = {"lr": 0.4, "lambda_lr": 1.0, "log_every": 4, "warmup": 0.4, "prune": 14, "extra": 2}


@pytest.fixture(scope="session")
def runs(tmp_path_factory, toy_teacher_folder):
    """Configurations by name, as plain data; batches of 16."""
    folder = tmp_path_factory.mktemp("shards")
    samples = toy_samples((32, 40))
    train = write_shard(folder / "train.tar", samples)
    val = write_shard(folder / "val.tar", toy_samples((48,)))
    many = toy_samples((32, 34, 36, 38, 40))
    many[7][1]["png"] = b"nothing"
    broken = write_shard(folder / "broken.tar", many)

    def config(**sections):
        return {
            "name": "toy",
            "teacher": {"model": str(toy_teacher_folder)},
            "student": {"model": STUDENT},
            "loss": {"teacher_logit_scale": 100.0, **sections.pop("loss", {})},
            "data": {
                "train": str(train),
                "val": str(val),
                "cache_teacher": False,
                **sections.pop("data", {}),
            },
            "optim": OPTIM,
            "run": {"device": "cpu", "log_every": 1, "save_every": 7},
            **sections,
        }

    parts = {"device": "cpu", "log_every": 1, "micro_batch": 5, "grad_checkpointing": True}
    learnt = {"student_logit_scale": "learned", "contrastive": 0.5}
    # A copy of the teacher that only mimics it begins with gradients of rounding; where the
    # price alone moves gates they are all but equal, and rounding picks those that go.
    masked = {
        "loss": {**learnt, "affinity": 100.0, "contrastive": 50.0},
        "student": {"keep": 0.5},
        "inherit": {"method": "masks"},
        "masks": MASKS,
    }
    return {
        "learnt scale": config(loss=learnt),
        "projector": config(
            loss={"feature": 20.0}, student={"model": {**STUDENT, "embed_dim": 48}}
        ),
        "masks": config(**masked),
        "mapped": config(
            loss=learnt, inherit={"plan": "mapped", "map_from": "evenly", "map_steps": 10}
        ),
        "micro-batches": config(loss=learnt, run=parts),
        "masks in parts": config(**masked, run=parts),
        "sigmoid": config(
            loss={
                "affinity": {"kind": "sigmoid", "hard_negative": 4.0},
                "sigmoid": 0.5,
                "interactive": 0.5,
                "matryoshka": [16],
                # At 100 a pair may cost hundreds, and steps enlarge rounding as much.
                "teacher_logit_scale": 10.0,
                "teacher_logit_bias": -5.0,
                "student_logit_bias": "learned",
            },
            optim=AVERAGED,
        ),
        "sigmoid streamed": config(
            loss={"affinity": 0.0, "sigmoid": 1.0, "student_logit_bias": "learned"},
            data={"train": str(broken), "memory_gb": 0.0},
        ),
        "cached": config(data={"cache_teacher": True}),
        "fused teachers": config(
            teacher={
                "model": str(toy_teacher_folder),
                "ensemble": [{"model": str(toy_teacher_folder), "temperature": 3.0}],
                "fusion": "learned",
            },
            loss={**learnt, "affinity_mean": "probabilities"},
            run=parts,
        ),
        "fused sigmoids": config(
            teacher={
                "model": str(toy_teacher_folder),
                "ensemble": [{"model": str(toy_teacher_folder), "temperature": 3.0}],
                "fusion": "confidence",
            },
            loss={
                "affinity_kind": "sigmoid",
                "teacher_logit_scale": 10.0,
                "teacher_logit_bias": -5.0,
            },
        ),
        "streamed": config(loss=learnt, data={"train": str(broken), "memory_gb": 0.0}),
    }
