"""The student as it was when it did best on the validation pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyclip_edge.metrics import selection_score
from tinyclip_edge.models import save_local_dir
from tinyclip_edge.run_events import read_events
from tinyclip_edge.train.monitoring.events import EventLog
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.stages.state import StageState


@dataclass(slots=True)
class Best:
    """Keeps ``best/`` of a run folder; only students of the final shape compete."""

    folder: RunFolder
    events: EventLog
    last_stage: int
    score: float = field(init=False)

    def __post_init__(self) -> None:
        # What a resume went back behind is no longer among the events.
        events = read_events(self.folder.events) if self.folder.events.exists() else []
        scores = [event.get("score") for event in events if event["kind"] == "best"]
        numbers = [score for score in scores if isinstance(score, float)]
        self.score = numbers[-1] if numbers and self.folder.best.is_dir() else -1.0

    def consider(self, step: int, metrics: Mapping[str, float], work: StageState) -> None:
        """Keep the student of ``step`` if none before was better. Raises ModelError."""
        masked = work.stage.masks is not None and work.pruned is None
        if masked or work.stage.number < self.last_stage:
            return
        score = selection_score(metrics)
        if score > self.score:
            save_local_dir(self.folder.best, work.student)
            self.score = score
            self.events.write("best", step=step, score=score)
