"""Training of candidates by successive halving, each in a run folder of its own.

Results are recorded after every candidate, so that a killed training continues with the candidate
that was being trained, from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from tinyclip_edge.tailoring.agreement import Agreement
from tinyclip_edge.tailoring.rungs import PILOT_STEPS, rung_sizes, rung_steps, survivors
from tinyclip_edge.units import duration

Clock = Callable[[], float]


class Trainer(Protocol):
    """Trains and evaluates candidates by name."""

    def train(self, name: str, steps: int) -> float:
        """Train a candidate until it has taken ``steps`` steps; return seconds per step."""

    def score(self, name: str) -> Agreement:
        """Return how well a candidate's current student agrees with the teacher."""


@dataclass(slots=True)
class Rung:
    """One round: its candidates, their last step, and their results."""

    names: list[str]
    steps: int  # of each candidate at the end of the rung, from its start
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class SuccessiveHalving:
    """Candidates, largest first, and the rungs so far; the first rung is the pilot."""

    names: list[str]
    mb: Mapping[str, float]
    rungs: list[Rung] = field(default_factory=list)

    @property
    def spent(self) -> float:
        """Seconds so far, over all calls."""
        return sum(sum(rung.seconds.values()) for rung in self.rungs)

    @property
    def winner(self) -> str:
        """The survivor of the last rung."""
        return self._best(self.rungs[-1], 1)[0]

    @property
    def results(self) -> dict[str, Agreement]:
        """The latest agreement of each candidate that has one."""
        agreements: dict[str, Agreement] = {}
        for rung in self.rungs:
            agreements |= {name: Agreement(**score) for name, score in rung.scores.items()}
        return agreements

    @property
    def steps(self) -> dict[str, int]:
        """Steps of each candidate."""
        return {name: rung.steps for rung in self.rungs for name in rung.names}

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"rungs": [asdict(rung) for rung in self.rungs]}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Restore the rungs of an earlier call."""
        self.rungs = [Rung(**rung) for rung in record["rungs"]]

    def run(
        self,
        trainer: Trainer,
        minutes: float,
        save: Callable[[], None],
        say: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
        clock: Clock = time.perf_counter,
    ) -> None:
        """Train until one candidate is left.

        ``check`` is called before each rung, ``save`` after each candidate.
        """
        sizes = rung_sizes(len(self.names))
        if not self.rungs:
            say(
                f"{len(self.names):,} candidates, {len(sizes):,} rungs of successive halving, "
                f"{duration(60 * minutes)} of training"
            )
        for number in range(len(sizes) + 1):
            if number == len(self.rungs):
                check()
                self.rungs.append(self._next(number, sizes, minutes * 60))
                save()
                rung = self.rungs[-1]
                if number:
                    say(
                        f"rung {number} of {len(sizes)}: {', '.join(rung.names)} up to step "
                        f"{rung.steps:,}"
                    )
            rung = self.rungs[number]
            for name in rung.names:
                if name in rung.seconds:
                    continue
                began = clock()
                rung.step_seconds[name] = trainer.train(name, rung.steps)
                if number:
                    score = trainer.score(name)
                    rung.scores[name] = score.as_dict()
                    say(f"{name}: {score.top1:.1%} of the teacher's labels")
                rung.seconds[name] = clock() - began
                save()

    def _next(self, number: int, sizes: Sequence[int], seconds: float) -> Rung:
        if number == 0:
            return Rung(list(self.names), PILOT_STEPS)
        before = self.rungs[-1]
        names = list(self.names) if number == 1 else self._best(before, sizes[number - 1])
        left, rungs = seconds - self.spent, len(sizes) - number + 1
        pilot = self.rungs[0]
        idle = sum(pilot.seconds[name] - PILOT_STEPS * pilot.step_seconds[name] for name in names)
        rates = [before.step_seconds[name] for name in names]
        added = rung_steps(left - rungs * max(0.0, idle), rungs, rates)
        return Rung(names, before.steps + added)

    def _best(self, rung: Rung, count: int) -> list[str]:
        """Return those that agree most with the teacher; ties are broken by KL, then by bytes."""
        tops, divergences = (
            {name: score[key] for name, score in rung.scores.items()} for key in ("top1", "kl")
        )
        return survivors(rung.names, tops, (divergences, self.mb), count)
