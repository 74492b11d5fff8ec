"""The plan of a run from its configuration alone: no pairs are read and nothing is trained.

Networks are traced on torch's meta device: planning for a large teacher takes seconds, no memory
and no weights. A multiply-accumulate counts as two floating-point operations; texts have full
context length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tinyclip_edge.config import RunConfig
from tinyclip_edge.inheritance.mapping import WeightMapping
from tinyclip_edge.inheritance.text_part import text_part
from tinyclip_edge.inheritance.tower_kind import BOTH
from tinyclip_edge.launcher import check_batch
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.clip import count_parameters
from tinyclip_edge.models.cost import text_encoder, traced_macs
from tinyclip_edge.models.frozen import freeze
from tinyclip_edge.models.given_config import open_clip_config
from tinyclip_edge.models.meta_device import on_meta_device
from tinyclip_edge.models.pruned import clip_units
from tinyclip_edge.models.sized_text import is_hf_text
from tinyclip_edge.models.student import plan_student
from tinyclip_edge.train.memory import FLOAT, HALF, SavedBytes, mapped_bytes, student_bytes
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.stages.student import label, resolve_stages, shaped
from tinyclip_edge.train.tasks.encoders import PairEncoder
from tinyclip_edge.train.vocabulary import planned_origin

PASSES = 3  # one forward pass, and a backward pass at twice its cost
TRACED = 2  # pairs
PETA, TERA, HOUR = 1e15, 1e12, 3600


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage. With masks, parameters are those at its end, activations those at its start."""

    number: int
    student: str
    keep: float | None  # share of the teacher's prunable parameters, with masks
    image_parameters: int
    text_parameters: int  # without the token embedding
    steps: int
    samples: int
    lr: float
    prune_after: int | None  # in this stage
    activation_bytes: int  # for the pairs that a process holds at once
    student_bytes: int  # with gradients and AdamW's moments, and with the mapping if one is learnt
    pflop: float  # of the student
    teacher_pflop: float  # run on every pair


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All stages, and the resources that they need."""

    name: str
    teacher: str
    teacher_parameters: int  # without the token embedding
    teacher_bytes: int
    batch_size: int
    processes: int
    held: int  # pairs whose activations a process holds at once
    stages: tuple[StagePlan, ...]

    @property
    def pflop(self) -> float:
        """Total cost of teacher and student over all stages."""
        return sum(stage.pflop + stage.teacher_pflop for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        """Teacher, student with AdamW, and activations, for the stage that needs most."""
        return self.teacher_bytes + max(
            stage.student_bytes + stage.activation_bytes for stage in self.stages
        )

    def hours(self, tflops: float) -> float:
        """Total device hours at the given TFLOP/s per device."""
        return device_hours(self.pflop, tflops)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "pflop": self.pflop, "memory_bytes": self.memory_bytes}


def device_hours(pflop: float, tflops: float) -> float:
    """Return the hours that one device with the given TFLOP/s needs for the operations."""
    return pflop * PETA / (tflops * TERA) / HOUR


def plan_run(config: RunConfig, *, processes: int = 1) -> RunPlan:
    """Return the plan of a run shared by the given number of processes.

    Raises ConfigError, ModelError, and InheritanceError for a student that cannot inherit from the
    teacher.
    """
    size = config.optim.batch_size
    check_batch(size, processes)
    share = size // processes
    rows = min(share, config.run.micro_batch or share)
    first = described(config.teacher.model, config.teacher.pretrained)
    ensemble = (described(one.model, one.pretrained) for one in config.teacher.ensemble)
    teachers = [first, *ensemble]
    counts = [count_parameters(teacher.model) for teacher in teachers]
    macs = sum(sum(traced_macs(one.model, one.config["model_cfg"])) for one in teachers)
    return RunPlan(
        name=config.name,
        teacher=" + ".join(teacher.name for teacher in teachers),
        teacher_parameters=sum(count.encoders for count in counts),
        teacher_bytes=sum(count.total for count in counts) * _size(config),
        batch_size=size,
        processes=processes,
        held=rows,
        stages=tuple(_stages(config, planned_origin(config, first), rows, 2 * macs)),
    )


def described(model: str, tag: str | None) -> LoadedClip:
    """Return a model on the meta device; models from open_clip's list need no weights for that.

    Any other MODEL is loaded first. Raises ModelError.
    """
    listed = open_clip_config(model if tag is None else f"{model}/{tag}")
    if listed is None:
        clip = load_clip(model, tag)
        return replace(clip, model=clip.model.to("meta"))
    with on_meta_device():
        return assemble(
            listed.model_cfg,
            listed.preprocess_cfg,
            name=model,
            tokenizer_file=listed.tokenizer_file,
        )


def _stages(
    config: RunConfig, teacher: LoadedClip, rows: int, teacher_flop: int
) -> Iterator[StagePlan]:
    """Yield the plans of all stages; ``teacher_flop``: cost of the teachers for one pair."""
    before, dense_share = teacher, 1.0  # the dense model, and its share that masks have left
    with on_meta_device():
        for stage in resolve_stages(config, teacher):
            mapping = None
            if stage.student is not None:
                before, mapping = _cut_out(config, stage, before)
            plan, dense_share = _plan(config, stage, teacher, before, dense_share)
            samples = plan.samples
            if mapping is not None:
                while_mapped = mapped_bytes(before.model, mapping, stage.optim)
                plan = replace(plan, student_bytes=max(plan.student_bytes, while_mapped))
            yield replace(
                plan,
                activation_bytes=rows * plan.activation_bytes,
                teacher_pflop=teacher_flop * samples / PETA,
            )


def _cut_out(
    config: RunConfig, stage: Stage, before: LoadedClip
) -> tuple[LoadedClip, WeightMapping | None]:
    """Return the student of a stage and the mapping that makes its weights, if one is learnt."""
    assert stage.student is not None
    student, mapping = shaped(config, stage.student, before), None
    if config.inherit.method != "none":
        plan = config.inherit.selection
        plan = "evenly" if plan == "importance" else plan
        inheritance = plan_student(before, student, plan=plan, modes=config.inherit.modes)
        state = student.model.state_dict()
        inheritance.select(state)
        mapping = None if stage.map_steps is None else inheritance.mapping(state)
    freeze(student.model, config.inherit.frozen)
    return student, mapping


def _plan(
    config: RunConfig, stage: Stage, teacher: LoadedClip, student: LoadedClip, dense_share: float
) -> tuple[StagePlan, float]:
    """Return the plan with the activations of one pair, and the share that remains after it."""
    count, optim, frozen = count_parameters(student.model), stage.optim, config.inherit.frozen
    samples = optim.steps * config.optim.batch_size
    image, text, share, after = count.image, count.text, dense_share, dense_share
    if stage.keep is not None and stage.masks is not None:
        units, teacher_units = clip_units(student), clip_units(teacher)
        after = stage.keep * teacher_units.prunable / units.prunable
        fixed = sum(getattr(units, tower).prunable for tower in frozen)
        lost = (1 - after) * (units.prunable / (units.prunable - fixed))  # of a trained tower
        image -= 0 if "image" in frozen else round(lost * units.image.prunable)
        text -= 0 if "text" in frozen else round(lost * units.text.prunable)
        dense = stage.masks.prune / optim.steps
        share = dense * dense_share + (1 - dense) * after
    freeze(student.model, frozen)
    macs = traced_macs(student.model, student.config["model_cfg"])
    costs = zip(BOTH, macs, strict=True)
    passes = sum(cost * (1 if tower in frozen else PASSES) for tower, cost in costs)
    name = student.name if stage.keep is None else f"{stage.keep:.0%} by masks"
    plan = StagePlan(
        number=stage.number,
        student=label(name, config),
        keep=stage.keep,
        image_parameters=image,
        text_parameters=text,
        steps=optim.steps,
        samples=samples,
        lr=optim.lr,
        prune_after=None if stage.masks is None else stage.masks.prune,
        activation_bytes=round(dense_share * _activations(student, config)),
        student_bytes=round(dense_share * student_bytes(student.model, config.optim)),
        pflop=2 * passes * samples * share / PETA,
        teacher_pflop=0.0,
    )
    return plan, after


def _activations(student: LoadedClip, config: RunConfig) -> int:
    """Return the approximate bytes that autograd stores for one pair."""
    encoder = PairEncoder(student).requires_grad_(True)
    freeze(student.model, config.inherit.frozen)
    encoder.train()
    if config.run.grad_checkpointing:
        student.model.set_grad_checkpointing(True)  # type: ignore[operator]
    size = student.image_size
    saved = SavedBytes(list(encoder.parameters()))
    pixels = torch.empty(TRACED, 3, size, size, device="meta")
    tokens = torch.zeros(TRACED, student.context_length, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        if is_hf_text(text_part(student.model)):
            features = encoder.encode_image(pixels), text_encoder(student.model)(tokens)
        else:
            features = encoder.encode_image(pixels), encoder.encode_text(tokens)
    peak = saved.peak
    del features  # kept alive until here, as a loss would
    return peak // TRACED * _size(config) // FLOAT


def _size(config: RunConfig) -> int:
    """Return a value's size in bytes, ignoring that autocast leaves some in float32."""
    return FLOAT if config.run.precision == "fp32" else HALF
