"""Quantization-aware training: a short distillation of a student whose towers are rounded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyclip_edge.config import InheritConfig, LossConfig, RunConfig, StudentConfig
from tinyclip_edge.config.loss import LOSS_TERMS
from tinyclip_edge.data import StreamingPairs, TrainingPairs
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.metrics import selection_score
from tinyclip_edge.models import LoadedClip, weights_hash
from tinyclip_edge.run_events import iterate_events
from tinyclip_edge.train.builder import FinetunedStudent, load_setup
from tinyclip_edge.train.folder_check import CHECKPOINTS, CONFIG, checkpoint_steps
from tinyclip_edge.train.monitoring.events import Observer, Silent
from tinyclip_edge.train.qat.fake_quant import Rounding
from tinyclip_edge.train.qat.quantized_task import QuantizedTask, TowerRounding
from tinyclip_edge.train.resume import RunStart, start_run
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.setup import Setup
from tinyclip_edge.train.tasks.objective import make_objective
from tinyclip_edge.train.tasks.teacher import Teacher
from tinyclip_edge.train.training import train

LR_RATIO = 0.1  # of the learning rate that the student was trained with
WARMUP = 0.05  # share of the steps
MAX_CONVOLUTIONS = 4  # in a ViT, whose patch embedding is a convolution
IDENTITY = "finetune.json"  # in a run folder: the student's hash and the settings


@dataclass(frozen=True, slots=True)
class Finishing:
    """Length and rounding of a fine-tuning; a tower without rounding stays float."""

    steps: int
    lr: float | None = None  # peak; None: a tenth of the configuration's
    image: Rounding | None = field(default_factory=Rounding)
    text: Rounding | None = field(default_factory=Rounding)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"int8 fine-tuning takes 1 step or more, not {self.steps}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ConfigError(f"int8 fine-tuning: learning rate {self.lr:g} must be above 0")


@dataclass(frozen=True, slots=True)
class Finished:
    """A fine-tuned student, and the accuracies of its rounded towers on the validation pairs."""

    clip: LoadedClip  # float weights; the original ones if fine-tuning did not help
    helped: bool
    steps: int
    lr: float
    before: Mapping[str, float]
    after: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        return {
            "steps": self.steps,
            "lr": self.lr,
            "kept": self.helped,
            "recall@1_before": round(100 * score(self.before), 2),
            "recall@1_after": round(100 * score(self.after), 2),
        }


def finish_quantized(
    clip: LoadedClip,
    teacher: LoadedClip | None,
    config: RunConfig,
    finishing: Finishing,
    *,
    folder: Path,
    observer: Observer | None = None,
    resume_command: str = "the same command",
) -> Finished:
    """Train a copy of ``clip`` with rounded towers to mimic the affinities of its teacher.

    ``teacher`` is the first of ``config.teacher``; None: the float student itself. Pairs, loss,
    seed, device and AdamW's settings come from ``config``. A convolutional image tower is not
    trained, because its export is calibrated instead. If the accuracy of the rounded towers falls,
    the weights of ``clip`` are returned. Checkpoints are written into ``folder``; if it has one,
    training continues from it with the losses of an uninterrupted training.

    Raises ConfigError without validation pairs, or if the folder belongs to another training;
    DataError, ModelError, and InterruptedRun after SIGINT or SIGTERM, once a checkpoint is written.
    """
    watcher = Silent() if observer is None else observer
    if config.data.val is None:
        raise ConfigError(
            "int8 fine-tuning needs validation pairs to measure its effect; set data.val"
        )
    finishing = _for_towers(clip, finishing, watcher)
    first_teacher = clip if teacher is None else teacher
    config = _finetune_config(config, clip, finishing, own_teacher=teacher is None)
    identity = _identity(clip, finishing)
    _check_identity(folder, identity)
    run = RunFolder(folder, config)
    resume = (folder / CONFIG).is_file() or bool(checkpoint_steps(folder / CHECKPOINTS))
    with run.held(resume=resume):
        watcher.on_message("fine-tuning for int8")
        setup, start = _start(run, clip, first_teacher, finishing, watcher, resume=resume)
        _write_identity(folder, identity)  # not earlier: an unused folder is removed
        result = train(run, setup, start, watcher, resume_command=resume_command, is_finetune=True)
        accuracies = _logged_accuracies(run.events)
    before, after = accuracies[0], accuracies[config.optim.steps]
    helped = score(after) >= score(before)
    change = f"recall@1 of the rounded student {score(before):.1%}, fine-tuned {score(after):.1%}"
    watcher.on_message(change if helped else f"{change}: worse, so the weights stay as they were")
    result.student.model.cpu().eval()
    trained = result.student if helped else clip
    return Finished(trained, helped, finishing.steps, config.optim.lr, before, after)


def score(metrics: Mapping[str, float]) -> float:
    """Return the score by which a run selects its best student."""
    return selection_score(metrics)


def _start(
    run: RunFolder,
    clip: LoadedClip,
    teacher: LoadedClip,
    finishing: Finishing,
    observer: Observer,
    *,
    resume: bool,
) -> tuple[Setup, RunStart]:
    copy = replace(clip, model=deepcopy(clip.model).requires_grad_(True), weights_file=None)
    rounding = TowerRounding(finishing.image, finishing.text)
    student = FinetunedStudent(copy, partial(QuantizedTask, rounding=rounding), _fit)
    setup, first = load_setup(run.config, observer, teacher, finetune=student)
    return setup, start_run(setup, first, run, observer, resume=resume)


def _for_towers(clip: LoadedClip, finishing: Finishing, observer: Observer) -> Finishing:
    visual = clip.model.get_submodule("visual")
    convolutions = sum(isinstance(module, nn.Conv2d) for module in visual.modules())
    if finishing.image is None or convolutions <= MAX_CONVOLUTIONS:
        return finishing
    observer.on_message(f"the image tower of {clip.name} is convolutional, so it is left unchanged")
    return replace(finishing, image=None)


def _finetune_config(
    config: RunConfig, clip: LoadedClip, finishing: Finishing, *, own_teacher: bool
) -> RunConfig:
    """Return the fine-tuning's run: one stage, float32, plain pictures, the run's save interval."""
    teacher = config.teacher
    if own_teacher:
        teacher = teacher.model_copy(update={"ensemble": [], "fusion": "mean"})
    lr = finishing.lr or LR_RATIO * config.optim.lr
    optim = {"lr": lr, "steps": finishing.steps, "warmup": WARMUP, "ema": None}
    plain_pictures = {"views": 0, "augment_crop": None, "augment_flip": 0.0, "augment_colour": 0.0}
    # Checkpointed or compiled blocks would skip the rounding.
    run = {"precision": "fp32", "grad_checkpointing": False, "compile": False, "trackers": []}
    return config.model_copy(
        update={
            "teacher": teacher,
            "student": StudentConfig(model=clip.name),
            "inherit": InheritConfig(method="none"),
            "stages": [],
            "optim": config.optim.model_copy(update=optim),
            "data": config.data.model_copy(update={**plain_pictures, "feature_cache": None}),
            "run": config.run.model_copy(update={**run, "eval_every": 0}),
        }
    )


def _fit(config: RunConfig, clip: LoadedClip, teacher: Teacher, pairs: TrainingPairs) -> RunConfig:
    """Return the configuration with a loss and batch size suitable for models and pairs."""
    optim, loss = config.optim, _loss(config.loss, clip.embedding_dim, teacher.embedding_dim)
    if (
        not isinstance(pairs, StreamingPairs) and pairs.memories
    ):  # there may be fewer than in the student's training
        count = pairs.largest_batch(distinct=config.data.batch_distinct)
        size = max(2, min(optim.batch_size, count))
        optim = optim.model_copy(update={"batch_size": size})
    return config.model_copy(update={"loss": loss, "optim": optim})


def _loss(loss: LossConfig, student_width: int, teacher_width: int) -> LossConfig:
    """Return the run's loss with affinities, and without terms that would train new modules."""
    update: dict[str, float] = {}
    if loss.weight("affinity") == 0:
        update["affinity"] = 1.0
    for name in loss.active:
        alone = loss.model_copy(update={**dict.fromkeys(LOSS_TERMS, 0.0), name: 1.0})
        with torch.device("meta"):  # only to check whether it has modules
            objective = make_objective(alone, student_width, teacher_width)
        if objective.modules:
            update[name] = 0.0
    return loss.model_copy(update=update)


def _identity(clip: LoadedClip, finishing: Finishing) -> dict[str, Any]:
    """Return the identity of the training to which a folder of checkpoints belongs."""
    return {
        "student": weights_hash(clip.model),
        "steps": finishing.steps,
        "lr": finishing.lr,
        "image": None if finishing.image is None else finishing.image.as_dict(),
        "text": None if finishing.text is None else finishing.text.as_dict(),
    }


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise ConfigError if ``folder`` belongs to another training."""
    path = folder / IDENTITY
    if not path.is_file():
        return
    before = read_json_table(path, ConfigError, unique_keys=True)
    changed = [key for key, value in identity.items() if before.get(key) != value]
    if changed:
        raise ConfigError(
            f"{folder} contains an unfinished fine-tuning with another {' and '.join(changed)}; "
            "repeat the command that started it, or delete the folder"
        )


def _write_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    with file_written_aside(folder / IDENTITY) as file:
        file.write(json.dumps(identity, indent=1).encode() + b"\n")


def _logged_accuracies(events: Path) -> dict[int, dict[str, float]]:
    """Return the student's accuracies by step, including those of an interrupted call."""
    return {
        event["step"]: {k: v for k, v in event.items() if k not in ("kind", "step", "who")}
        for event in iterate_events(events)
        if event["kind"] == "eval"
    }
