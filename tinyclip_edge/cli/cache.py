"""``tinyclip-edge cache``: compute the teachers' features of all pairs once."""

from __future__ import annotations

from tinyclip_edge.cli.distill import ConfigArgs
from tinyclip_edge.cli.options import (
    ClusterOption,
    JsonFlag,
    print_json,
    progress_console,
    refuse_launcher,
    say_result,
)
from tinyclip_edge.cli.run_config import read_run
from tinyclip_edge.errors import one_line
from tinyclip_edge.launcher import first_process
from tinyclip_edge.units import duration, size


def cache(
    config: ConfigArgs = None, cluster: ClusterOption = None, json_output: JsonFlag = False
) -> None:
    """Compute the teachers' features once, for all runs to share.

    They are stored in data.feature_cache; an interrupted computation continues.
    """
    from tinyclip_edge.train.feature_cache.check import check_cached

    if cluster is not None:
        refuse_launcher("cache --cluster")
    run = read_run(config, pairs=("train",))
    check_cached(run.data)
    from tinyclip_edge.train.caching import cache_features
    from tinyclip_edge.train.distributed import disband

    with FillBar() as bar:
        result = cache_features(run, bar, cluster=cluster)
    disband()
    if not first_process():
        return
    if json_output:
        print_json(result.as_dict())
        return
    say_result(
        f"{result.folder}: {result.computed:,} of {result.parts:,} parts computed, "
        f"{result.pictures:,} pictures and {result.captions:,} captions, "
        f"{size(result.nbytes)} in {duration(result.seconds)}"
    )


class FillBar:
    """Draws the progress of the computation on stderr; use it as a context manager."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = progress_console()
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
        self._console.print(one_line(text), markup=False, emoji=False, soft_wrap=True)

    def on_pairs(self, done: int, total: int) -> None:
        """Advance the bar."""
        self._bar.update(self._task, completed=done, total=total, visible=True)
