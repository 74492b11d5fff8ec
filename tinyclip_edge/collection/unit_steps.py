"""Run a task that reports its progress to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")


def _ignore(_pictures: int) -> None:
    pass


def run_steps(
    steps: Generator[int, None, Result], on_step: Callable[[int], None] = _ignore
) -> Result:
    """Run a task's steps, call ``on_step`` with what each yields, and return the task's result.

    Raises what the task raises; a half-written file is removed.
    """
    try:
        while True:
            on_step(next(steps))
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        steps.close()
