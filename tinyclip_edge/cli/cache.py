"""``tinyclip-edge cache``: the teachers' features of all pairs, computed once."""

from __future__ import annotations

from tinyclip_edge.cli.distill import ConfigArgs
from tinyclip_edge.cli.options import JsonFlag, print_json, say
from tinyclip_edge.cli.run_config import read_run
from tinyclip_edge.errors import one_line
from tinyclip_edge.launcher import first_process


def cache(config: ConfigArgs = None, json_output: JsonFlag = False) -> None:
    """Compute the teachers' features into data.feature_cache; an interrupted run continues."""
    from tinyclip_edge.train.feature_cache.check import check_cached

    run = read_run(config, pairs=("train",))
    check_cached(run.data)
    from tinyclip_edge.train.caching import cache_features
    from tinyclip_edge.train.distributed import disband

    with FillBar() as bar:
        result = cache_features(run, bar)
    disband()
    if not first_process():
        return
    if json_output:
        print_json(result.as_dict())
        return
    say(
        f"{result.folder}: {result.computed:,} of {result.parts:,} parts computed, "
        f"{result.pictures:,} pictures and {result.captions:,} captions, "
        f"{result.nbytes / 1e6:.1f} MB in {result.seconds:.0f} s"
    )


class FillBar:
    """Draws the progress of a fill on stderr; use it as a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("teacher features"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} pairs"),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=0, visible=False)

    def __enter__(self) -> FillBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_message(self, text: str) -> None:
        """Write one line."""
        self._console.print(one_line(text), markup=False, soft_wrap=True)

    def on_pairs(self, done: int, total: int) -> None:
        """Advance the bar."""
        self._bar.update(self._task, completed=done, total=total, visible=True)
