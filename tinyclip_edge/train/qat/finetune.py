"""Quantization-aware training: a short distillation of a student whose towers run rounded."""

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
from tinyclip_edge.data import PairMemory, StreamingPairs
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.metrics import selection_score
from tinyclip_edge.models import LoadedClip, weights_hash
from tinyclip_edge.run_events import read_events
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

LR_RATIO = 0.1  # of the rate that the student was trained with
WARMUP = 0.05  # share of the steps
MAX_CONVOLUTIONS = 4  # of a ViT, whose patch embedding is one
IDENTITY = "finetune.json"  # of a run folder: which student is trained, and how


@dataclass(frozen=True, slots=True)
class Finishing:
    """Length and rounding of a fine-tuning; a tower without rounding stays float."""

    steps: int
    lr: float | None = None  # peak; None: a tenth of the configuration's
    image: Rounding | None = field(default_factory=Rounding)
    text: Rounding | None = field(default_factory=Rounding)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"finishing for int8 takes 1 step or more, not {self.steps}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ConfigError(f"finishing for int8: learning rate {self.lr:g} must be above 0")


@dataclass(frozen=True, slots=True)
class Finished:
    """A fine-tuned student, and the accuracies of its rounded towers on the validation pairs."""

    clip: LoadedClip  # float weights; the original ones where the fine-tuning did not help
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
    seed, device and AdamW's settings are those of ``config``. An image tower of convolutions is not
    trained, as its export is calibrated instead. The weights stay those of ``clip`` when the
    accuracy of the rounded towers falls. Checkpoints are written into ``folder``; where it has one,
    the training goes on from it with the losses of an uninterrupted one.

    Raises ConfigError without validation pairs, or for a folder of another training; DataError,
    ModelError, and InterruptedRun after SIGINT or SIGTERM, once a checkpoint is written.
    """
    watcher = Silent() if observer is None else observer
    if config.data.val is None:
        raise ConfigError(
            "finishing for int8 needs validation pairs to tell whether it helped; give data.val"
        )
    finishing = _for_towers(clip, finishing, watcher)
    first_teacher = clip if teacher is None else teacher
    config = _finetune_config(config, clip, finishing, own_teacher=teacher is None)
    identity = _identity(clip, finishing)
    _check_identity(folder, identity)
    run = RunFolder(folder, config)
    resume = (folder / CONFIG).is_file() or bool(checkpoint_steps(folder / CHECKPOINTS))
    with run.held(resume=resume):
        watcher.on_message("finishing for int8")
        setup, start = _start(run, clip, first_teacher, finishing, watcher, resume=resume)
        _write_identity(folder, identity)  # not before: a folder that nothing began in is removed
        result = train(run, setup, start, watcher, resume_command=resume_command, is_finetune=True)
        accuracies = _logged_accuracies(run.events)
    before, after = accuracies[0], accuracies[config.optim.steps]
    helped = score(after) >= score(before)
    change = f"recall@1 of the rounded student {score(before):.1%}, finished {score(after):.1%}"
    watcher.on_message(change if helped else f"{change}: worse, so the weights stay as they were")
    result.student.model.cpu().eval()
    trained = result.student if helped else clip
    return Finished(trained, helped, finishing.steps, config.optim.lr, before, after)


def score(metrics: Mapping[str, float]) -> float:
    """Return the share by which a run also selects its best student."""
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
    observer.on_message(f"the image tower of {clip.name} is of convolutions: it is left as it is")
    return replace(finishing, image=None)


def _finetune_config(
    config: RunConfig, clip: LoadedClip, finishing: Finishing, *, own_teacher: bool
) -> RunConfig:
    """Return the run of a fine-tuning: one stage, float32, plain pictures, saved as the run is."""
    teacher = config.teacher
    if own_teacher:
        teacher = teacher.model_copy(update={"ensemble": []})
    lr = finishing.lr or LR_RATIO * config.optim.lr
    optim = {"lr": lr, "steps": finishing.steps, "warmup": WARMUP, "ema": None}
    plain_pictures = {"views": 0, "augment_crop": None, "augment_flip": 0.0, "augment_colour": 0.0}
    # Blocks that are computed twice or compiled would leave the rounding out.
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


def _fit(
    config: RunConfig, clip: LoadedClip, teacher: Teacher, pairs: PairMemory | StreamingPairs
) -> RunConfig:
    """Return the configuration with a loss and a batch that suit models and pairs."""
    optim, loss = config.optim, _loss(config.loss, clip.embedding_dim, teacher.embedding_dim)
    if isinstance(pairs, PairMemory):  # there may be fewer than the student was trained on
        count = len(pairs.concepts) if config.data.batch_distinct else len(pairs)
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
        with torch.device("meta"):  # only to see whether it has modules
            objective = make_objective(alone, student_width, teacher_width)
        if objective.modules:
            update[name] = 0.0
    return loss.model_copy(update=update)


def _identity(clip: LoadedClip, finishing: Finishing) -> dict[str, Any]:
    """Return what a folder of checkpoints belongs to."""
    return {
        "student": weights_hash(clip.model),
        "steps": finishing.steps,
        "lr": finishing.lr,
        "image": None if finishing.image is None else finishing.image.as_dict(),
        "text": None if finishing.text is None else finishing.text.as_dict(),
    }


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise ConfigError when ``folder`` belongs to something else."""
    path = folder / IDENTITY
    if not path.is_file():
        return
    before = read_json_table(path, ConfigError)
    changed = [key for key, value in identity.items() if before.get(key) != value]
    if changed:
        raise ConfigError(
            f"{folder} holds an unfinished fine-tuning with another {' and '.join(changed)}; "
            f"repeat the command that began it, or delete the folder"
        )


def _write_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    aside = folder / f"{IDENTITY}.part"
    aside.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / IDENTITY)


def _logged_accuracies(events: Path) -> dict[int, dict[str, float]]:
    """Return the student's accuracies by step, those of an interrupted call among them."""
    return {
        event["step"]: {k: v for k, v in event.items() if k not in ("kind", "step", "who")}
        for event in read_events(events)
        if event["kind"] == "eval"
    }
