"""Events and messages about stages, gates and pruning."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.models import LoadedClip, count_parameters
from tinyclip_edge.models.pruned import PruneResult
from tinyclip_edge.train.monitoring.events import EventLog, Observer
from tinyclip_edge.train.stages.machine import Transition
from tinyclip_edge.train.stages.state import StageState
from tinyclip_edge.train.tasks.mapped_task import MappedTask
from tinyclip_edge.train.tasks.mask_task import MaskedTask
from tinyclip_edge.train.tasks.probes import probe_pair


@dataclass(frozen=True, slots=True)
class StageLog:
    """Writes events and notifies the observer."""

    events: EventLog
    observer: Observer

    def stage_begins(self, state: StageState, done: int) -> None:
        """Log the start of a stage, and what its student inherited."""
        stage = state.stage
        shape = f"keep {stage.keep:g}" if stage.keep is not None else "a fixed shape"
        count = count_parameters(state.student.model)
        self.events.write(
            "stage",
            step=done,
            stage=stage.number,
            stages=stage.of,
            keep=stage.keep,
            steps=stage.optim.steps,
            lr=stage.optim.lr,
            encoder_parameters=count.encoders,
            token_parameters=count.token_embedding,
        )
        self.observer.on_message(
            f"stage {stage.number} of {stage.of}: {shape}, {stage.optim.steps:,} steps "
            f"from {count.encoders:,} encoder parameters"
        )

    def inherited(self, report: InheritanceReport, state: StageState, done: int) -> None:
        """Log the inherited weights of a stage's student."""
        parts = {"image": report.image, "text": report.text, "shared": report.shared}
        self.events.write(
            "inherit",
            step=done,
            stage=state.stage.number,
            method=report.method,
            parameters={name: tower.parameters for name, tower in parts.items()},
            taken=None if report.taken is None else asdict(report.taken),
            notes=report.notes,
        )
        for line in report.lines():
            self.observer.on_message(line)

    def probes(self, teacher: LoadedClip, state: StageState, done: int) -> None:
        """Warn of changes of the input to which student and teacher respond differently."""
        for probe in probe_pair(teacher, state.student):
            if not probe.agrees:
                text = probe.sentence()
                facts = {**probe.as_dict(), "text": text}
                self.events.write("probe", step=done, stage=state.stage.number, **facts)
                self.observer.on_message(f"warning: {text}")

    def gates(self, state: StageState, done: int, transition: Transition, every: int) -> None:
        """Log the gates of a masked state: after the first step, each ``every``, and at the end."""
        task = state.task
        if not isinstance(task, MaskedTask):
            return
        if transition is Transition.WAIT:
            self._postponed(task, state, done)
        is_last = transition is Transition.PRUNE
        if is_last or task.steps_done == 1 or task.steps_done % every == 0:
            summary = task.gate_summary()
            self.events.write("gates", step=done, stage=state.stage.number, **summary)

    def pruned(self, before: MaskedTask, result: PruneResult, state: StageState, done: int) -> None:
        """Log the pruning of the gates of ``before``, which led to ``state``."""
        share = 1 - result.sparsity
        is_met = abs(share - before.keep) <= before.config.tolerance
        count = count_parameters(state.student.model)
        units = result.plan.after
        self.events.write(
            "prune", step=done, stage=state.stage.number, kept=share, keep=before.keep, met=is_met,
            shift=before.shift,
            parameters_before=result.parameters_before, parameters_after=result.parameters_after,
            encoder_parameters=count.encoders, token_parameters=count.token_embedding,
            image=units.image.table(), text=units.text.table(),
        )  # fmt: skip
        advice = (
            "prune later (masks.prune, masks.extra) or raise" if share > before.keep else "lower"
        )
        missed = f"; the target of {before.keep:.1%} was missed: {advice} masks.lr"
        self.observer.on_message(
            f"step {done}: pruned to {share:.1%} of the teacher's prunable parameters, "
            f"{count.encoders:,} in both towers{'' if is_met else missed}"
        )

    def folded(self, state: StageState, done: int) -> None:
        """Log the end of the mapping of ``state``, and how much it differs from a selection."""
        assert isinstance(state.task, MappedTask)
        spread = state.task.mapping.spread()
        self.events.write("fold", step=done, stage=state.stage.number, **spread)
        self.observer.on_message(
            f"step {done}: the mapping is folded into weights; {spread['width']:.1%} of a unit and "
            f"{spread['depth']:.1%} of a layer do not come from its main source in the teacher"
        )

    def _postponed(self, task: MaskedTask, state: StageState, done: int) -> None:
        share = task.size_share()
        self.events.write(
            "wait", step=done, stage=state.stage.number, kept=share, keep=task.keep,
            until=done + task.steps.wait,
        )  # fmt: skip
        self.observer.on_message(
            f"step {done}: masks would keep {share:.1%} instead of {task.keep:.1%}; pruning is "
            f"postponed by up to {task.steps.wait:,} steps"
        )
