"""Distillation: task, loop, checkpoints, progress.

Names load on first use, so that progress can be shown before torch is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_edge.run_events import read_events
    from tinyclip_edge.train.distillation import RunResult, distill
    from tinyclip_edge.train.monitoring.events import Observer, StepReport
    from tinyclip_edge.train.monitoring.progress import ProgressObserver

_HOME = {
    "Observer": "monitoring.events",
    "ProgressObserver": "monitoring.progress",
    "RunResult": "distillation",
    "StepReport": "monitoring.events",
    "distill": "distillation",
    "read_events": "tinyclip_edge.run_events",
}

__all__ = ["Observer", "ProgressObserver", "RunResult", "StepReport", "distill", "read_events"]


__getattr__ = lazy_names(__name__, _HOME)
