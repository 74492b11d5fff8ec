"""SIGKILL or SIGTERM for a forked process, before one of its file operations or after a time."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

MOVES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def ended(work, *, inside: Path, at: int) -> bool:
    """Call ``work`` in a forked process that gets SIGTERM before a file operation, as ``killed``.

    Say whether it came to that. Raises AssertionError unless its exit code is then 143, else 0.
    """
    from tinyclip_edge.cli.termination import orderly_end

    def orderly():
        with orderly_end():
            work()

    child = os.fork()
    if child == 0:
        _work(orderly, str(inside), at, None, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status), status
    code = os.WEXITSTATUS(status)
    assert code in (0, 128 + signal.SIGTERM), "the process failed by itself, see its traceback"
    return code != 0


def killed(work, *, inside: Path, at: int | None = None, after: float | None = None) -> bool:
    """Call ``work`` in a forked process; say whether it was killed.

    ``at`` kills it before so many operations (from 0) that change files below ``inside``, ``after``
    so many seconds later. Raises AssertionError when it fails by itself.
    """
    child = os.fork()
    if child == 0:
        _work(work, str(inside), at, after)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGALRM), status
        return True
    assert os.WEXITSTATUS(status) == 0, "the process failed by itself, see its traceback"
    return False


def _work(work, inside: str, at: int | None, after: float | None, number=signal.SIGKILL):
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
    try:
        if at is not None:
            sys.addaudithook(watch)
        if after is not None:
            # The default action ends the process in the kernel; no Python runs.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, after)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
