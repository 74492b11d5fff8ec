"""The stages of a run, resolved to steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tinyclip_edge.config import OptimConfig, RunConfig, StageConfig, as_steps
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.inheritance.gates import CLAMP, HIGH, LOW, TEMPERATURE


@dataclass(frozen=True, slots=True)
class MaskSteps:
    """Steps of a stage with masks, counted from its start."""

    rise: int  # until the target reaches its final value
    prune: int  # finished steps when gates are pruned
    wait: int  # by which pruning may be postponed
    rewarm: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, from a dense student to a smaller one."""

    number: int  # from 1
    of: int
    began: int  # steps of the run before this stage
    optim: OptimConfig  # its own steps, learning rate and warm-up
    keep: float | None  # share of the teacher's prunable parameters; None: a fixed shape
    student: str | dict[str, Any] | None  # the shape; None with ``keep``
    masks: MaskSteps | None
    map_steps: int | None = None  # first steps of the stage, in which a mapping is learnt

    @property
    def end(self) -> int:
        """The number of finished steps of the run at the end of this stage."""
        return self.began + self.optim.steps

    @property
    def folds(self) -> int:
        """The number of finished steps of the run at the end of the mapping, if one is learnt."""
        return self.began + (self.map_steps or 0)


def plan_stages(config: RunConfig, stages: tuple[StageConfig, ...] = ()) -> tuple[Stage, ...]:
    """Return the stages of a run: ``stages`` (a recipe of the zoo), or those of the configuration.

    Raises ConfigError if a stage is too short for its warm-up, its pruning or its gates.
    """
    stage_configs = stages or tuple(config.stages)
    if not stage_configs:
        student = config.student
        optim = config.optim
        masks = None if student.keep is None else _mask_steps(config, optim, config.masks.prune)
        only = Stage(1, 1, 0, optim, student.keep, student.model, masks, _map_steps(config))
        return (only,)
    resolved: list[Stage] = []
    for number, stage in enumerate(stage_configs, 1):
        optim = _optim(config, stage, number)
        prune = config.masks.prune if stage.prune is None else stage.prune
        masks = None if stage.keep is None else _mask_steps(config, optim, prune, number)
        began = resolved[-1].end if resolved else 0
        resolved.append(
            Stage(number, len(stage_configs), began, optim, stage.keep, stage.student, masks)
        )
    return tuple(resolved)


def _optim(config: RunConfig, stage: StageConfig, number: int) -> OptimConfig:
    changed: dict[str, Any] = {}
    if stage.samples is not None:
        changed["steps"] = -(-stage.samples // config.optim.batch_size)
    for key in ("steps", "lr", "warmup"):
        if getattr(stage, key) is not None:
            changed[key] = getattr(stage, key)
    try:
        return OptimConfig.model_validate({**config.optim.model_dump(), **changed})
    except ValidationError as error:
        cause = error.errors(include_url=False)[0]
        raise ConfigError(
            f"stage {number}: {cause.get('ctx', {}).get('error', cause['msg'])}"
        ) from None


def _mask_steps(
    config: RunConfig, optim: OptimConfig, when: float, number: int | None = None
) -> MaskSteps:
    masks, steps = config.masks, optim.steps
    prune, wait = as_steps(when, steps), as_steps(masks.extra, steps)
    where = "" if number is None else f"stage {number}: "
    if prune < 1 or prune + wait >= steps:
        raise ConfigError(
            f"{where}masks are pruned after {prune:,} steps and up to {wait:,} later (masks.prune, "
            f"masks.extra), which does not fit into {steps:,} steps; lower them or increase the "
            "steps"
        )
    rise = as_steps(masks.warmup, prune)
    if rise > prune:
        raise ConfigError(
            f"{where}the target of the masks rises over {rise:,} steps, but they are pruned "
            f"after {prune:,}; lower masks.warmup or prune later"
        )
    return MaskSteps(rise, prune, wait, masks.rewarm)


def _map_steps(config: RunConfig) -> int | None:
    if not config.inherit.is_mapped:
        return None
    steps, mapped = config.optim.steps, as_steps(config.inherit.map_steps, config.optim.steps)
    if not 1 <= mapped < steps:
        raise ConfigError(
            f"inherit.map_steps gives the mapping {mapped} of the run's {steps} steps; it needs at "
            "least one, and at least one must follow"
        )
    return mapped


def check_gate_distance(config: RunConfig, stage: Stage, before: float, whole: float = 0.0) -> None:
    """Raise ConfigError if pruning comes before gates can have closed.

    AdamW moves them by ``lr`` per step. ``before`` is the share of the teacher's parameters at the
    stage's start, and ``whole`` the part of it that cannot be pruned.
    """
    assert stage.keep is not None
    assert stage.masks is not None
    steps, rate = stage.masks.prune + stage.masks.wait, config.masks.lr
    distance = gate_distance(min(1.0, (stage.keep - whole) / (before - whole)))
    if steps * rate < distance:
        raise ConfigError(
            f"keep {stage.keep:g} cannot be reached: gates have {distance:.1f} to move and "
            f"masks.lr {rate:g} moves them {steps * rate:.1f} in {steps:,} steps; set masks.lr to "
            f"{math.ceil(100 * distance / stage.masks.prune) / 100:g} or prune later"
        )


def gate_distance(keep: float) -> float:
    """Return how far log-alpha falls when all gates go from open to the share ``keep`` together.

    A parameter remains if both of its units do, so each unit remains with probability sqrt(keep).
    """
    off = 1 - math.sqrt(keep)
    if off <= 0:
        return 0.0
    end = TEMPERATURE * math.log(-LOW / HIGH) - math.log(off / (1 - off))
    return max(0.0, CLAMP - end)
