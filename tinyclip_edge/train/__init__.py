"""Distillation: task, loop, checkpoints, progress.

Names load on first use, so that progress can be shown before torch is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_edge.train.observe import Observer, StepReport, read_events
    from tinyclip_edge.train.progress import ProgressObserver
    from tinyclip_edge.train.run import RunResult, distill

_HOME = {
    "Observer": "observe",
    "ProgressObserver": "progress",
    "RunResult": "run",
    "StepReport": "observe",
    "distill": "run",
    "read_events": "observe",
}

__all__ = ["Observer", "ProgressObserver", "RunResult", "StepReport", "distill", "read_events"]


__getattr__ = lazy_names(__name__, _HOME)
