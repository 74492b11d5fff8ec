"""The search of ``tailor`` for the best shape, over steps instead of minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyclip_edge.tailoring.agreement import Agreement
    from tinyclip_edge.tailoring.preparation import Prepared
    from tinyclip_edge.tailoring.state import Tailoring
    from tinyclip_edge.tailoring.successive_halving import SuccessiveHalving, Trainer


class StepClock:
    """Trains candidates, and is the clock for halving them: a step counts as a second."""

    def __init__(self, runs: Trainer, halving: SuccessiveHalving) -> None:
        self._runs = runs
        self._steps = {name: rung.steps for rung in halving.rungs for name in rung.seconds}

    def train(self, name: str, steps: int) -> float:
        """Train a candidate until it has taken ``steps`` steps; a step takes one second."""
        self._runs.train(name, steps)
        self._steps[name] = steps
        return 1.0

    def score(self, name: str) -> Agreement:
        """Return how well a candidate agrees with the teacher."""
        return self._runs.score(name)

    def __call__(self) -> float:
        """Return the steps so far."""
        return float(sum(self._steps.values()))


def tailoring_of(
    pictures: Path,
    labels: Path,
    folder: Path,
    **settings: Any,  # noqa: ANN401 - the other fields of a request
) -> tuple[Tailoring, Prepared]:
    """Measure shapes in the budget, and split and encode the pictures, as ``tailor`` does.

    Results of an earlier call are read from ``folder``.
    """
    from tinyclip_edge.api.tailoring import begin
    from tinyclip_edge.tailoring.preparation import prepare
    from tinyclip_edge.tailoring.request import read_request
    from tinyclip_edge.tailoring.work import WorkFolder

    request = read_request(pictures, labels, None, out=folder / "bundle", **settings)
    folder.mkdir(parents=True, exist_ok=True)
    tailoring = begin(request, WorkFolder(folder), print)
    largest, listed = next(iter(tailoring.candidates.costs)), tailoring.listed
    config = tailoring.config(largest, len(listed.pictures), 1)
    work, teacher = tailoring.work, tailoring.teacher
    return tailoring, prepare(request, work, listed, teacher, config, print)


def search(tailoring: Tailoring, prepared: Prepared) -> SuccessiveHalving:
    """Halve the candidates, or continue where an earlier call stopped.

    Each minute of the request is sixty steps, over all candidates together.
    """
    from tinyclip_edge.tailoring.evaluation import evaluate
    from tinyclip_edge.tailoring.runs import CandidateRuns
    from tinyclip_edge.tailoring.successive_halving import SuccessiveHalving
    from tinyclip_edge.tailoring.work import TRAINING

    work, costs = tailoring.work, tailoring.candidates.costs
    mb = {shape.name: cost.mb for shape, cost in costs.items()}
    halving = SuccessiveHalving(list(mb), mb)
    work.parsed(TRAINING, halving.restore)
    runs = CandidateRuns(
        work,
        lambda name, steps: tailoring.config(tailoring.shape(name), prepared.train, steps),
        lambda folder: evaluate(tailoring.request, prepared, str(folder)),
    )
    clock = StepClock(runs, halving)
    halving.run(
        clock,
        tailoring.request.minutes,
        lambda: work.write(TRAINING, halving.as_dict()),
        print,
        clock=clock,
    )
    return halving
