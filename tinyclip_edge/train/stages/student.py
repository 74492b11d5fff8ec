"""The student at the start of a stage: inherited from the previous model, or that model itself."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor

from tinyclip_edge.config import RunConfig, StageConfig
from tinyclip_edge.data import PairSource, StreamingPairs, open_configured, open_sources
from tinyclip_edge.data.mixture import mixed
from tinyclip_edge.errors import ConfigError, InheritanceError, TinyClipError
from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.inheritance.mapping import WeightMapping, check_mappable
from tinyclip_edge.inheritance.sparsity import check_reachable
from tinyclip_edge.models import ZOO, LoadedClip, create_student, inherit_student
from tinyclip_edge.models.calibration import Calibration, Calibrations, WeightedCalibration
from tinyclip_edge.models.prefixes import with_prefixes
from tinyclip_edge.models.pruned import clip_units
from tinyclip_edge.models.student import plan_student
from tinyclip_edge.train.schedule import Stage, check_gate_distance, plan_stages
from tinyclip_edge.train.tasks.encoders import pixel_codec

CALIBRATION_BATCH = 64  # pairs decoded at once


@dataclass(frozen=True, slots=True)
class InitialStudent:
    """The student of step 0."""

    clip: LoadedClip
    inherited: InheritanceReport | None = None
    mapping: WeightMapping | None = None  # makes its weights, if one is learnt


def start_student(
    config: RunConfig, teacher: LoadedClip, stage: Stage | None = None
) -> InitialStudent:
    """Return the student with the weights of step 0, and what it inherited.

    ``teacher`` already has only the tokens of ``student.vocab``, see train.vocabulary. Seeds every
    generator first, so that random weights depend only on the seed. Raises ModelError and
    InheritanceError.
    """
    set_seed(config.seed)
    first = resolve_stages(config, teacher)[0] if stage is None else stage
    return stage_student(config, first, teacher)


def resolve_stages(config: RunConfig, teacher: LoadedClip) -> tuple[Stage, ...]:
    """Return the stages of a run, including those of a zoo recipe.

    Raises ConfigError, ModelError, and InheritanceError for errors that would stop a later stage.
    """
    name, method = config.student.model, config.inherit.method
    entry = ZOO.get(name) if isinstance(name, str) else None
    recipe = () if entry is None else tuple(StageConfig(keep=keep) for keep in entry.stages)
    if recipe and method == "none":
        raise ConfigError(f"{name} is a recipe with masks; set inherit.method=masks, not none")
    fresh = [tower for tower, mode in config.inherit.modes.items() if mode == "fresh"]
    if recipe and fresh:
        raise ConfigError(
            f"{name} is a recipe with masks, which start from the teacher's weights; "
            f"inherit.{fresh[0]}=fresh needs a student of a given shape"
        )
    if recipe and config.inherit.is_mapped:
        raise ConfigError(
            f"{name} is a recipe with masks, which cannot be combined with inherit.plan mapped; "
            "set inherit.plan to evenly, or choose another student.model"
        )
    if method == "masks" and name is not None and not recipe:
        raise ConfigError(
            "inherit.method is masks, which determine the shape: set student.keep or stages "
            "instead of student.model"
        )
    stages = plan_stages(config, recipe)
    if config.inherit.is_mapped:
        towers = [tower for tower, mode in config.inherit.modes.items() if mode == "inherited"]
        check_mappable(teacher.model.state_dict(), towers)
    if len(stages) > 1 or stages[0].keep is not None:
        _check_stages(config, stages, teacher)
    return stages


def stage_student(config: RunConfig, stage: Stage, before: LoadedClip) -> InitialStudent:
    """Return the first student of a stage, derived from the dense model ``before``.

    Raises ModelError, and InheritanceError if the stage would grow.
    """
    if stage.student is None:
        return InitialStudent(dense_copy(before))
    student, plan = shaped(config, stage.student, before), config.inherit.selection
    if config.inherit.method == "none":
        return InitialStudent(student)
    pairs = None if plan != "importance" else calibrations(config, before)
    on_gpu = config.run.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None
    inheritance = plan_student(
        before,
        student,
        plan=plan,
        calibration=pairs,
        device=device,
        modes=config.inherit.modes,
    )
    weights, report = inheritance.select(student.model.state_dict())
    student.model.load_state_dict(weights)
    if stage.map_steps is None:
        return InitialStudent(student, report)
    report = replace(report, method=f"mapped, starting as {report.method}")
    return InitialStudent(student, report, inheritance.mapping(student.model.state_dict()))


def shaped(config: RunConfig, model: str | dict[str, Any], before: LoadedClip) -> LoadedClip:
    """Return a student of a shape with random weights; ModelError."""
    own_tokens, frozen = config.student.vocab is None, config.inherit.frozen
    return create_student(model, before, own_tokens=own_tokens, frozen=frozen)


def label(name: str, config: RunConfig) -> str:
    """Return a student's name with the towers that are not trained."""
    return ", ".join([name, *(f"{tower} tower frozen" for tower in config.inherit.frozen)])


def dense_copy(clip: LoadedClip) -> LoadedClip:
    """Return a trainable copy of a model, which masks shrink later."""
    model = deepcopy(clip.model).requires_grad_(True)
    copy = replace(
        clip, model=model, config=deepcopy(clip.config), name="student", weights_file=None
    )
    return with_prefixes(copy, ())  # drop the teacher's: the loss determines the student's


def calibrations(config: RunConfig, clip: LoadedClip) -> Calibrations:
    """Return the inputs for measuring importance: training pairs, or those of inherit.importance.

    Raises DataError.
    """
    importance = config.inherit.importance
    if importance is None:
        return calibration_pairs(config, clip)
    parts = []
    for name, part in importance.parts.items():
        if isinstance(part, float):
            parts.append(WeightedCalibration(name, part, calibration_pairs(config, clip)))
        else:
            source = open_configured(part, config.data.source_options)
            inputs = calibration_pairs(config, clip, source)
            parts.append(WeightedCalibration(name, part.weight, inputs))
    return parts


def calibration_pairs(
    config: RunConfig, clip: LoadedClip, source: PairSource | None = None
) -> Calibration:
    """Return ``inherit.calibration`` pairs: pixels ``[N, 3, H, W]``, ids ``[N, L]``.

    They come from ``source``, by default the training pairs, and repeat if there are too few.
    Raises DataError.
    """
    codec = pixel_codec(clip)
    count = config.inherit.calibration
    size = min(CALIBRATION_BATCH, count, config.optim.batch_size)
    if source is None:
        sources, weights = open_sources(config.data), [part.weight for part in config.data.sources]
    else:
        sources, weights = (source,), [1.0]
        if source.fits(size):
            size = max(1, source.count().pairs)
    workers = config.data.workers
    stream = mixed([StreamingPairs(each, codec, workers=workers) for each in sources], weights)
    pixels: list[Tensor] = []
    captions: list[str] = []
    for batch in stream.batches(0, size, seed=config.seed, distinct=False):
        pixels.append(codec.restore(batch.pixels, clip.image_size))
        captions.extend(batch.captions)
        if len(captions) >= count:
            break
    return torch.cat(pixels)[:count], clip.tokenizer(captions[:count])


def _check_stages(config: RunConfig, stages: tuple[Stage, ...], teacher: LoadedClip) -> None:
    """Raise errors that would stop a later stage, before the first step.

    Raises InheritanceError for a stage that grows, or whose target its masks cannot reach, and
    ConfigError for one that ends before its gates can have closed.
    """
    before, share = teacher, 1.0
    for stage in stages:
        try:
            if stage.student is not None:
                with torch.random.fork_rng(devices=[]):
                    student = shaped(config, stage.student, before)
                if config.inherit.method != "none":
                    inherit_student(before, student, plan="evenly", modes=config.inherit.modes)
                before = student
            else:
                assert stage.keep is not None
                units = clip_units(teacher)
                share = min(share, clip_units(before).prunable / units.prunable)
                _check_keep(stage.keep, share)
                frozen, uniform = config.inherit.frozen, config.student.uniform_shapes
                check_reachable(units, stage.keep, uniform_shapes=uniform, whole=frozen)
                whole = sum(getattr(units, tower).prunable for tower in frozen)
                check_gate_distance(config, stage, share, whole / units.prunable)
                share = stage.keep
        except TinyClipError as error:
            if len(stages) == 1:
                raise
            raise type(error)(f"stage {stage.number}: {error}") from error


def _check_keep(keep: float, share: float) -> None:
    """Raise InheritanceError if the ``share`` of the teacher that is left is not above ``keep``."""
    if keep >= share:
        raise InheritanceError(
            f"keep {keep:g} is not below the {share:.3f} of the teacher that the previous stage "
            "kept; a stage cannot grow"
        )
