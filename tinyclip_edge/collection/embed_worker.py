"""A process that works on shards: it reads units from stdin and writes results to stdout."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from typing import TYPE_CHECKING

from tinyclip_edge.collection.unit_steps import run_steps
from tinyclip_edge.errors import TinyClipError

if TYPE_CHECKING:
    from typing import Any

    from tinyclip_edge.collection.embed_engines import UnitTask


def main() -> None:
    """Work on each unit from stdin, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that whatever a library prints does not mix with the results
    # webdataset imports torch if it is installed, which takes time and memory for nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    units = sys.stdin.buffer
    task: UnitTask[Any] = pickle.load(units)

    def send(message: object) -> None:
        pickle.dump(message, answers)
        answers.flush()

    while True:
        try:
            unit = pickle.load(units)
        except EOFError:
            return
        try:
            send(run_steps(task.steps(unit), send))
        except TinyClipError as error:
            send(error)
        except BrokenPipeError:  # nobody is waiting for the result
            return


if __name__ == "__main__":
    main()
