"""Finish a student for int8: a short distillation in which its towers run rounded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from tinyclip_edge.config import LossConfig, OptimConfig, RunConfig
from tinyclip_edge.config.loss import LOSS_TERMS
from tinyclip_edge.data import (
    Batch,
    PairMemory,
    Prefetch,
    StreamingPairs,
    TeacherFeatures,
    open_source,
)
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.metrics import selection_score
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.builder import GIGABYTE, make_accelerator, make_teacher, picture_bytes
from tinyclip_edge.train.loop import Meter
from tinyclip_edge.train.memory import enough_memory
from tinyclip_edge.train.monitoring.events import Observer, Silent, StepReport
from tinyclip_edge.train.optimizer import OptimizerStep, make_optimizer
from tinyclip_edge.train.qat.fake_quant import Rounding, rounded
from tinyclip_edge.train.tasks.distill_task import MAX_LOG_SCALE, DistillTask
from tinyclip_edge.train.tasks.encoders import PairEncoder
from tinyclip_edge.train.tasks.objective import make_objective
from tinyclip_edge.train.tasks.teacher import Teacher
from tinyclip_edge.train.tasks.validation import Validation

GENTLE = 0.1  # of the rate that the student was trained with
WARMUP = 0.05  # share of the steps
MANY = 4  # convolutions; a patch embedding is one


@dataclass(frozen=True, slots=True)
class Finishing:
    """How long a student is finished, and for what; None leaves a tower float and as it is."""

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
    """A student after its finish, and both accuracies of the rounded towers (validation pairs)."""

    clip: LoadedClip  # float weights; those given where the finish did not help
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


class RoundedEncoder(PairEncoder):
    """Both towers of a CLIP, each rounded as its export will be."""

    def __init__(self, clip: LoadedClip, image: Rounding | None, text: Rounding | None) -> None:
        super().__init__(clip)
        self.rounding = (image, text)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return ``[B, D]`` of float32 ``[B, 3, H, W]``."""
        with rounded(self.rounding[0]):
            return super().encode_image(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return ``[B, D]`` of ``[B, L]`` tokens, L up to the context length."""
        with rounded(self.rounding[1]):
            return super().encode_text(tokens)


class FinishTask(DistillTask):
    """Distillation of a rounded student that starts with the scale it has."""

    def __init__(
        self, student: LoadedClip, teacher: Teacher, loss: LossConfig, finishing: Finishing
    ) -> None:
        self._finishing = finishing
        scale = student.logit_scale
        super().__init__(student, teacher, teacher.codec, loss, device=teacher.device)
        if self.encoder.log_scale.requires_grad:
            with torch.no_grad():
                self.encoder.log_scale.fill_(min(math.log(scale), MAX_LOG_SCALE))
        if finishing.image is None:
            self._visual.requires_grad_(False)

    def make_encoder(self, student: LoadedClip) -> PairEncoder:
        """Return the towers as they will be exported."""
        return RoundedEncoder(student, self._finishing.image, self._finishing.text)

    def train(self) -> None:
        """Put the student into training mode, but for an image tower that stays as it is."""
        super().train()
        if self._finishing.image is None:
            self._visual.eval()

    @property
    def _visual(self) -> nn.Module:
        return self.clip.model.get_submodule("visual")


def finish_quantized(
    clip: LoadedClip,
    teacher: LoadedClip | None,
    config: RunConfig,
    finishing: Finishing,
    *,
    observer: Observer | None = None,
) -> Finished:
    """Train a copy of ``clip`` with rounded towers to mimic the affinities of its teacher.

    ``teacher`` is the first of ``config.teacher``; None: the float student itself. Pairs, loss,
    seed, device and what AdamW needs are those of ``config``. An image tower of convolutions is
    left alone, as its export is calibrated instead. The weights stay those of ``clip`` when the
    rounded towers find less of the validation pairs than before. Raises ConfigError without
    validation pairs, DataError and ModelError.
    """
    watcher = Silent() if observer is None else observer
    if config.data.val is None:
        raise ConfigError(
            "finishing for int8 needs validation pairs to tell whether it helped; give data.val"
        )
    finishing = _for_towers(clip, finishing, watcher)
    set_seed(config.seed)
    accelerator = make_accelerator(config.run.model_copy(update={"precision": "fp32"}))
    asked = _teacher(config, teacher, clip, accelerator.device)
    pairs = _open_pairs(config, asked, watcher)
    validation = _validation(config, asked)
    student = replace(clip, model=deepcopy(clip.model).requires_grad_(True), weights_file=None)
    task = FinishTask(student, asked, _loss(config.loss, asked, student), finishing)
    optim = _optim(config.optim, finishing)
    optimizer = make_optimizer(task.encoder, optim, task.groups(optim))
    updater = OptimizerStep(accelerator, optimizer, task.clipped(), optim)
    before = validation.measure(task.encoder, student)
    watcher.on_eval(0, "student", before)
    _train(task, updater, config, _batches(config, pairs), watcher)
    after = validation.measure(task.encoder, student)
    watcher.on_eval(optim.steps, "student", after)
    helped = score(after) >= score(before)
    told = f"recall@1 of the rounded student {score(before):.1%}, finished {score(after):.1%}"
    watcher.on_message(told if helped else f"{told}: worse, so the weights stay as they were")
    student.model.cpu().eval()
    return Finished(student if helped else clip, helped, optim.steps, optim.lr, before, after)


def score(metrics: Mapping[str, float]) -> float:
    """Return the share by which a run also picks its best student."""
    return selection_score(metrics)


def _for_towers(clip: LoadedClip, finishing: Finishing, watcher: Observer) -> Finishing:
    visual = clip.model.get_submodule("visual")
    convolutions = sum(isinstance(module, nn.Conv2d) for module in visual.modules())
    if finishing.image is None or convolutions <= MANY:
        return finishing
    watcher.on_message(f"the image tower of {clip.name} is of convolutions: it is left as it is")
    return replace(finishing, image=None)


def _teacher(
    config: RunConfig, teacher: LoadedClip | None, clip: LoadedClip, device: torch.device
) -> Teacher:
    if teacher is not None:
        return make_teacher(config, teacher, device)
    alone = config.teacher.model_copy(update={"ensemble": []})
    return make_teacher(config.model_copy(update={"teacher": alone}), clip, device)


def _loss(loss: LossConfig, teacher: Teacher, student: LoadedClip) -> LossConfig:
    """Return the run's loss with affinities, and without terms that would train new modules."""
    update: dict[str, float] = {}
    if loss.weight("affinity") == 0:
        update["affinity"] = 1.0
    for name in loss.active:
        alone = loss.model_copy(update={**dict.fromkeys(LOSS_TERMS, 0.0), name: 1.0})
        with torch.device("meta"):  # only to see whether it has modules
            objective = make_objective(alone, student.embedding_dim, teacher.embedding_dim)
        if objective.modules:
            update[name] = 0.0
    return loss.model_copy(update=update)


def _optim(optim: OptimConfig, finishing: Finishing) -> OptimConfig:
    lr = finishing.lr or GENTLE * optim.lr
    return optim.model_copy(update={"lr": lr, "steps": finishing.steps, "warmup": WARMUP})


def _open_pairs(
    config: RunConfig, teacher: Teacher, watcher: Observer
) -> PairMemory | StreamingPairs:
    """Load the training pairs, or stream them where they do not fit into memory."""
    data = config.data
    source = open_source(data.train, data.source_options)
    watcher.on_message(f"finishing for int8 on {source.name}, teacher {teacher.name}")
    if not source.fits(int(data.memory_gb * GIGABYTE / picture_bytes(teacher.voices[0].clip))):
        return StreamingPairs(
            source, teacher.codec, workers=data.workers, stream_groups=data.stream_groups
        )
    pairs = PairMemory.load(source, teacher.codec, workers=data.workers)
    for line in pairs.skipped():
        watcher.on_message(line)
    if data.cache_teacher:
        teacher.features = TeacherFeatures("finishing", len(pairs), len(pairs.captions))
    return pairs


def _validation(config: RunConfig, teacher: Teacher) -> Validation:
    data = config.data
    assert data.val is not None
    source = open_source(data.val, data.source_options)
    pairs = PairMemory.load(source, teacher.codec, workers=data.workers, limit=data.val_limit)
    return Validation(pairs, teacher.codec)


def _batches(config: RunConfig, pairs: PairMemory | StreamingPairs) -> Iterator[Batch]:
    size, distinct = config.optim.batch_size, config.data.batch_distinct
    if isinstance(pairs, PairMemory):  # a set may be smaller than what the student was trained on
        size = max(2, min(size, len(pairs.concepts) if distinct else len(pairs)))
    return pairs.batches(0, size, seed=config.seed, distinct=distinct)


def _train(
    task: FinishTask,
    updater: OptimizerStep,
    config: RunConfig,
    batches: Iterator[Batch],
    told: Observer,
) -> None:
    steps = updater.config.steps
    task.micro_batch = config.run.micro_batch
    task.train()
    meter = Meter()
    pin = task.teacher.device.type == "cuda"
    with Prefetch(batches, range(steps), lambda: None, pin=pin) as feed:
        for done, batch in enumerate(feed, 1):
            with enough_memory(config, done):
                terms = task.terms(batch)
                norm = updater.step(terms.loss, done - 1, terms.after_backward)
            task.after_step()
            meter.samples += len(batch.keys)
            if norm is None:
                told.on_message(f"step {done} skipped: loss or gradient not finite")
            speed, waited = meter.read()
            told.on_step(
                StepReport(done, steps, terms.values(), updater.lr(done - 1), speed, waited)
            )
