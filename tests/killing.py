"""SIGKILL or SIGTERM for a process, before one of its file operations or after a time."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from tinyclip_edge.cli.termination import orderly_end

MOVES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PRELOADED = ["tinyclip_edge.train.distillation", "tinyclip_edge.train.caching", "tinyclip_export"]


def killed(
    work,
    *args,
    inside: Path,
    at: int | None = None,
    after: float | None = None,
    fresh: bool = False,
) -> bool:
    """Call ``work(*args)`` in a process of its own; say whether it was killed.

    ``at`` kills it before so many operations (from 0) that change files below ``inside``, ``after``
    so many seconds later. A process that is ``fresh`` is no copy of this one, in which a backward
    pass or a thread may have made copies unfit for work; it imports ``work`` by its name.
    Raises AssertionError when it fails by itself.
    """
    code = _exit_code(fresh, work, args, str(inside), at, after, signal.SIGKILL)
    return code in (-signal.SIGKILL, -signal.SIGALRM)


def ended(work, *args, inside: Path, at: int) -> bool:
    """Call ``work(*args)`` in a fresh process that gets SIGTERM before a file operation.

    Say whether it came to that; its exit code is then 143.
    """
    code = _exit_code(True, work, args, str(inside), at, None, signal.SIGTERM)
    return code == 128 + signal.SIGTERM


def _exit_code(fresh: bool, work, args, inside, at, after, number) -> int:
    context = multiprocessing.get_context("forkserver" if fresh else "fork")
    if fresh:
        context.set_forkserver_preload(PRELOADED)
    with tempfile.NamedTemporaryFile() as stderr:
        call = (work, args, inside, at, after, number, stderr.name)
        process = context.Process(target=_work, args=call)
        process.start()
        process.join()
        assert process.exitcode != 1, Path(stderr.name).read_text()
    accepted = (0, -number) if number == signal.SIGKILL else (0, 128 + number)
    assert process.exitcode in (*accepted, -signal.SIGALRM), process.exitcode
    return process.exitcode


def _work(
    work, args, inside: str, at: int | None, after: float | None, number, output: str
) -> None:
    done = 0

    def watch(event, args):
        nonlocal done
        if event == "open":
            changes = isinstance(args[2], int) and args[2] & WRITES
        else:
            changes = event in MOVES
        # Deeper in a tree that is removed, names are relative to an open folder.
        name = os.fsdecode(args[0]) if changes and isinstance(args[0], (str, bytes)) else ""
        if changes and (name.startswith(inside) or (name and not name.startswith("/"))):
            if done == at:
                os.kill(os.getpid(), number)
            done += 1

    code = 1
    gc.freeze()  # collections of garbage skip what was imported
    try:
        if at is not None:
            sys.addaudithook(watch)
        if after is not None:
            # The default action ends the process in the kernel; no Python runs.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, after)
        with orderly_end():
            work(*args)
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        Path(output).write_text(traceback.format_exc())
    finally:
        os._exit(code)
