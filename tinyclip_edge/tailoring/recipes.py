"""The configuration of each candidate's run, as a person would write it for ``distill``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyclip_edge.config import RunConfig, make_config
from tinyclip_edge.tailoring.request import TailorRequest
from tinyclip_edge.tailoring.shapes import ImageShape, TeacherTower
from tinyclip_edge.tailoring.work import WorkFolder

BATCH = 128  # maximum number of pictures per step
CALIBRATION = 256  # maximum number of pictures on which importance is measured
SAVE_EVERY = 100  # steps


def run_config(
    request: TailorRequest,
    work: WorkFolder,
    tower: TeacherTower,
    shape: ImageShape,
    *,
    pictures: int,
    steps: int,
) -> RunConfig:
    """Return the run of one shape on a number of training pictures.

    The text tower is the teacher's, frozen, so that the embeddings of labels stay the same and only
    pictures are learnt.
    """
    values: Mapping[str, Any] = {
        "name": shape.name,
        "seed": request.seed,
        "teacher": {"model": request.teacher},
        "student": {"model": {"vision_cfg": tower.settings(shape)}},
        "inherit": {
            "method": "uniform",
            "plan": "importance",
            "calibration": min(CALIBRATION, pictures),
            "text": "frozen",
        },
        "loss": {"affinity": 1.0, "feature": 1000.0},
        "data": {
            "images": str(work.train.resolve()),
            "texts": str(work.lines("texts").resolve()),
            "feature_cache": str(work.features.resolve()),
        },
        "optim": {
            "lr": 1e-3,
            "batch_size": min(BATCH, pictures),
            "steps": steps,
            "warmup": 0.06,
            "weight_decay": 0.1,
            "final_lr_ratio": 0.02,
        },
        "run": {"save_every": SAVE_EVERY, "keep": 1},
    }
    return make_config(values)
