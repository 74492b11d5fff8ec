"""Progress of work on many pictures: a bar on stderr, or calls of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tinyclip_edge.runtime.protocol import Progress


@contextmanager
def reported(progress: Progress, text: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function of the pictures done and their total, None if unknown.

    ``progress``: True draws a bar with rate and time left, in a terminal or a notebook.
    """
    if callable(progress):
        yield progress
    elif progress:
        with _bar(text) as report:
            yield report
    else:
        yield lambda done, total: None


@contextmanager
def _bar(text: str) -> Iterator[Callable[[int, int | None], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if not task.speed else f"{task.speed:,.0f}/s")

    console = Console(stderr=True, highlight=False)
    if not (console.is_terminal or console.is_jupyter):  # rich 13 ends a line for a disabled bar
        yield lambda done, total: None
        return
    with Progress(
        TextColumn(text),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f} of {task.fields[of]}"),
        Rate(),
        TimeLeft(),
        console=console,
    ) as bar:
        task = bar.add_task("", total=None, of="?")

        def report(done: int, total: int | None) -> None:
            of = "?" if total is None else f"{total:,}"
            bar.update(task, completed=done, total=total, of=of)

        yield report
