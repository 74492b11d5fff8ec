"""Distillation: task, loop, checkpoints, progress.

Names load on first use, so that progress can be shown before torch is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
