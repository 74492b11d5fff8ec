"""The stages of a run as a state machine: what is due after a step, and what it leads to."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tinyclip_edge.config import OptimConfig, RunConfig
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.models.pruned import clip_units
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.schedule import MaskSteps, Stage
from tinyclip_edge.train.stages.machine import StageMachine, Transition
from tinyclip_edge.train.stages.state import Phase, StageState
from tinyclip_edge.train.stages.student import dense_copy
from tinyclip_edge.train.tasks.distill_task import TaskContext
from tinyclip_edge.train.tasks.encoders import pixel_codec
from tinyclip_edge.train.tasks.mask_task import MaskedTask, MaskTarget
from tinyclip_edge.train.tasks.teacher import Teacher

CPU = torch.device("cpu")
STEPS = MaskSteps(rise=2, prune=4, wait=2, rewarm=0.1)
STAGES = (
    Stage(1, 2, 0, OptimConfig(steps=10, warmup=0.0), 0.5, None, STEPS),
    Stage(2, 2, 10, OptimConfig(steps=5, warmup=0.0), None, "shape", None),
)


@pytest.fixture
def config():
    return RunConfig.model_validate(
        {
            "teacher": {"model": "t"},
            "data": {"train": "x.tar"},
            "student": {"keep": 0.5},
            "inherit": {"method": "masks"},
            "masks": {"lr": 0.1},
        }
    )


@pytest.fixture
def masked(toy_teacher, config):
    student, codec = dense_copy(toy_teacher), pixel_codec(toy_teacher)
    target = MaskTarget(ClipGates(clip_units(student)), 0.5, STEPS, config.masks)
    teacher = Teacher(toy_teacher, codec, device=CPU)
    task = MaskedTask(student, TaskContext(teacher, codec, config.loss, CPU), target)
    return StageState(STAGES[0], student, None, task, None)


@pytest.fixture
def machine(masked, config, tmp_path, monkeypatch):
    """Factory and folder are stubs: the student does not change, only its task does."""
    dense = replace(masked, task=object(), pruned=6)
    factory = SimpleNamespace(
        prune=lambda state, done: (replace(dense, pruned=done), "result"),
        next=lambda stage, before: replace(before, stage=stage, pruned=None),
    )
    saved = []
    monkeypatch.setattr(
        "tinyclip_edge.train.stages.machine.save_local_dir", lambda path, _: saved.append(path.name)
    )
    folder = RunFolder(tmp_path, config)
    instance = StageMachine(masked, STAGES, factory, folder, DistributedContext())
    return instance, saved


def test_a_run_goes_through_its_phases(machine):
    stages, saved = machine
    phases, transitions = [], []
    for done in range(1, 16):
        if stages.state.phase is Phase.MASKED:
            stages.state.task.after_step()
        transition = stages.due(done)
        if transition is Transition.PRUNE:
            assert stages.prune(done) == "result"
        elif transition is Transition.NEXT_STAGE:
            stages.next_stage()
        transitions.append(transition)
        phases.append((stages.state.stage.number, stages.state.phase))
    # Gates that have learnt nothing wait for two steps from the prune's step, 4, on.
    stay = Transition.STAY
    assert transitions == [
        stay, stay, stay, Transition.WAIT, stay, Transition.PRUNE,
        stay, stay, stay, Transition.NEXT_STAGE, stay, stay, stay, stay, stay,
    ]  # fmt: skip
    assert phases == [
        *[(1, Phase.MASKED)] * 5, *[(1, Phase.DENSE)] * 4, *[(2, Phase.DENSE)] * 6,
    ]  # fmt: skip
    assert saved == ["pruned", "student"]


def test_gates_at_their_target_are_pruned_at_once(machine):
    stages, _ = machine
    with torch.no_grad():
        for seed, log_alpha in enumerate(stages.state.task.gates.parameters()):
            generator = torch.Generator().manual_seed(seed)
            log_alpha.copy_(1.5 * torch.randn(log_alpha.shape, generator=generator))
    for _ in range(4):
        stages.state.task.after_step()
    assert stages.due(4) is Transition.PRUNE


def test_only_the_dense_student_of_the_last_stage_has_the_final_shape(machine):
    stages, _ = machine
    assert (stages.is_last, stages.has_final_shape) == (False, False)
    stages.prune(6)
    assert not stages.has_final_shape
    stages.next_stage()
    assert (stages.is_last, stages.has_final_shape) == (True, True)
