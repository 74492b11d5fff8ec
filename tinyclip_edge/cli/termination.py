"""SIGTERM, or a closed terminal, ends a command cleanly: its temporary files are removed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tinyclip_edge.launcher import first_process

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
PATIENCE = 10.0  # seconds within which a repeated signal counts as the same one
AGAIN = 0.01  # seconds after which a callback that dropped the exception has ended


@contextmanager
def orderly_end() -> Iterator[None]:
    """Turn the signals into SystemExit(128 + number) within the block.

    Signals that the caller ignores (nohup) or handles are left alone. timeout(1) and launchers send
    SIGTERM twice, so a second one soon after is ignored; a later one ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers are only allowed there
        yield
        return
    first: list[tuple[int, float]] = []  # signal and time
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append((number, time.monotonic()))
            if first_process() and not received:
                received.append(number)
                # sys.stderr may be in the middle of a line, and is not reentrant.
                os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
            raise SystemExit(128 + number)
        if time.monotonic() - first[0][1] > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def unraised(args: sys.UnraisableHookArgs) -> None:
        """Send the signal again if Python dropped its SystemExit, in a weakref's callback."""
        if first and args.exc_type is SystemExit:
            again = threading.Timer(AGAIN, os.kill, [os.getpid(), first.pop()[0]])
            again.daemon = True
            again.start()
        else:
            hook(args)

    hook: Callable[[sys.UnraisableHookArgs], object] = sys.unraisablehook
    ours = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    sys.unraisablehook = unraised
    try:
        yield
    except Exception:
        if first:  # while an extension module is imported, SystemExit becomes an ImportError
            raise SystemExit(128 + first[0][0]) from None
        raise
    finally:
        sys.unraisablehook = hook
        if not first:  # else folders are yet to be removed at exit
            for number in ours:
                signal.signal(number, signal.SIG_DFL)
