"""The best student on the validation pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyclip_edge.metrics import selection_score
from tinyclip_edge.models import LoadedClip, save_local_dir
from tinyclip_edge.run_events import iterate_events
from tinyclip_edge.train.monitoring.events import EventLog
from tinyclip_edge.train.run_folder import RunFolder


@dataclass(slots=True)
class Best:
    """Saves the best student of the final shape in ``best/`` of a run folder."""

    folder: RunFolder
    events: EventLog
    score: float = field(init=False)

    def __post_init__(self) -> None:
        # When a run is resumed, events after its checkpoint have already been dropped.
        events = iterate_events(self.folder.events) if self.folder.events.exists() else iter(())
        scores = [event.get("score") for event in events if event["kind"] == "best"]
        numbers = [score for score in scores if isinstance(score, float)]
        self.score = numbers[-1] if numbers and self.folder.best.is_dir() else -1.0

    def consider(self, step: int, metrics: Mapping[str, float], student: LoadedClip) -> None:
        """Save the student of ``step`` if it is the best so far. Raises ModelError."""
        score = selection_score(metrics)
        if score > self.score:
            save_local_dir(self.folder.best, student)
            self.score = score
            self.events.write("best", step=step, score=score)
