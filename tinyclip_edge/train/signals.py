"""Turn the first SIGINT or SIGTERM into a flag that the loop reads between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Context in which a signal requests a checkpoint; a further Ctrl-C ends the process at once.

    A second SIGTERM is ignored: schedulers and timeout(1) send it to a process and to its group.
    ``patient`` ignores a second Ctrl-C too: the terminal sends it to every process, and launchers
    forward it again.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.received = False
        self._patient = patient
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows it only there
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if not self._patient:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
