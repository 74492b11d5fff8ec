"""SIGTERM, or a terminal that closes, ends a command in order: what it works in is cleared away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tinyclip_edge.launcher import first_process

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
PATIENCE = 10.0  # seconds in which a repeated signal is taken for the first one


@contextmanager
def orderly_end() -> Iterator[None]:
    """Turn the signals into SystemExit(128 + number) for the time of the block.

    Those that the surroundings ignore (nohup) or handle stay as they are. timeout(1) and launchers
    send SIGTERM twice, so a second one is no reason to hurry; a late one ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python forbids it
        yield
        return
    first: list[tuple[int, float]] = []  # signal and time

    def end(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append((number, time.monotonic()))
            if first_process():
                # sys.stderr may be within a line, and cannot be entered twice.
                os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
            raise SystemExit(128 + number)
        if time.monotonic() - first[0][1] > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    ours = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    except Exception:
        if first:  # an extension module that is being imported makes an ImportError of SystemExit
            raise SystemExit(128 + first[0][0]) from None
        raise
    finally:
        if not first:  # else temporary folders are yet to be removed, when Python ends
            for number in ours:
                signal.signal(number, signal.SIG_DFL)
