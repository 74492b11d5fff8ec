"""Metrics of a run for TensorBoard or Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.config import RunConfig, flatten
from tinyclip_edge.errors import MissingExtraError, TinyClipError
from tinyclip_edge.train.monitoring.events import Observer, StepReport

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "tinyclip-edge"


def check_trackers(names: Sequence[str]) -> None:
    """Raise MissingExtraError for a tracker whose package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise MissingExtraError(
                f"run.trackers names {name}, which is not installed: pip install {name}, or "
                "remove it from run.trackers"
            )


class Tracked:
    """Observer that forwards everything and sends values to trackers; a context manager.

    Names are ``train/…`` for a step's values and ``student/…``, ``teacher/…`` for accuracies.
    """

    def __init__(self, observer: Observer, config: RunConfig, folder: Path, start: int) -> None:
        self._observer = observer
        self._every = config.run.log_every
        self._trackers = [_start(name, config, folder, start) for name in config.run.trackers]

    def on_step(self, report: StepReport) -> None:
        """Send the same values as in events.jsonl."""
        if report.step % self._every == 0 or report.step in (1, report.steps):
            values = {**report.values, "lr": report.lr, "samples_per_s": report.samples_per_s,
                      "data_wait": report.data_wait}  # fmt: skip
            self._log({f"train/{name}": value for name, value in values.items()}, report.step)
        self._observer.on_step(report)

    def on_eval(self, step: int, who: str, metrics: Mapping[str, float]) -> None:
        """Send accuracies."""
        self._log({f"{who}/{name}": value for name, value in metrics.items()}, step)
        self._observer.on_eval(step, who, metrics)

    def on_message(self, text: str) -> None:
        """Forward the line."""
        self._observer.on_message(text)

    def __enter__(self) -> Tracked:
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self._trackers:
            tracker.finish()

    def _log(self, values: dict[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(values, step=step)


def _start(name: str, config: RunConfig, folder: Path, start: int) -> GeneralTracker:
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    tracker: Any
    if name == "tensorboard":
        # purge_step hides values that a killed run sent after its checkpoint.
        options = {"purge_step": start + 1} if start else {}
        tracker = TensorBoardTracker("tensorboard", folder, **options)
    else:
        # The same folder continues its run; another folder of the same name starts a new one.
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        identity = {"id": f"{folder.name}-{digest}", "resume": "allow"}
        tracker = WandBTracker(PROJECT, name=config.name, dir=str(folder), **identity)
    try:
        tracker.start()
        if name == "wandb":
            tracker.store_init_configuration(flatten(config))
    except Exception as error:
        raise TinyClipError(
            f"run.trackers: {name} does not start ({' '.join(str(error).split())}); fix the cause "
            "or remove it"
        ) from error
    return tracker
