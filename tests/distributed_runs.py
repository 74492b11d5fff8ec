"""Distillation in several gloo processes, and what can happen to one of them."""

from __future__ import annotations

import gc
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from killing import PRELOADED
from tinyclip_edge import report
from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.models import weights_hash
from tinyclip_edge.train import distill
from tinyclip_edge.train.averaging import AveragedStudent
from tinyclip_edge.train.caching import cache_features
from tinyclip_edge.train.feature_cache.progress import ProgressLines
from tinyclip_edge.train.loop import Loop
from tinyclip_edge.train.tasks.distill_task import DistillTask
from toy_runs import Watcher

BAD_STEP, STOP_STEP = 3, 11


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def together(world: int, work, *args) -> None:
    """Call ``work(rank, *args)`` in ``world`` processes; raises when one fails.

    They are forked from a process that has imported all and computed nothing.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    multiprocessing.start_processes(
        _begin, (world, free_port(), work, args), nprocs=world, start_method="forkserver"
    )


def _begin(rank, world, port, work, args) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    gc.freeze()  # collections of garbage skip what was imported
    torch.set_num_threads(1)
    report.write_final_report = lambda *_, **__: None  # it takes longer than a toy run
    work(rank, *args)
    distributed.destroy_process_group()


def distil_all(rank, configs, folder: Path) -> None:
    """Run ``configs`` by name, each in its folder; leaves what each process told its observer."""
    for name, config in configs.items():
        watcher, averages = Watcher(), []
        begin = AveragedStudent.of

        def begun(*arguments, begin=begin, averages=averages):
            averages.append(begin(*arguments))
            return averages[-1]

        AveragedStudent.of = begun
        distill(RunConfig.model_validate(config), folder / name, observer=watcher)
        AveragedStudent.of = begin
        (folder / f"{name}-{rank}.txt").write_text("\n".join(watcher.messages))
        for average in averages:
            (folder / f"{name}-average-{rank}.txt").write_text(weights_hash(average.clip.model))


def distil_with_trouble(rank, configs, folder: Path) -> None:
    """Run all, then what goes wrong on the second process alone."""
    distil_all(rank, configs, folder)
    plain = RunConfig.model_validate(configs["learnt scale"])
    _bad_loss(rank, plain, folder)
    _bad_data(rank, plain, folder)
    _signal(rank, plain, folder)


def _bad_loss(rank, config, folder) -> None:
    """A loss that is not a number; leaves what each process' student became."""
    terms, students = DistillTask.terms, []

    def poisoned(task, batch, calls=[]):  # noqa: B006 - counts its calls
        calls.append(batch)
        students.append(task.clip.model)
        values = terms(task, batch)
        bad = rank == 1 and len(calls) == BAD_STEP
        return replace(values, loss=values.loss * float("nan")) if bad else values

    DistillTask.terms = poisoned
    result = distill(config, folder / "bad loss")
    DistillTask.terms = terms
    summary = f"{result.skipped_steps} {weights_hash(students[-1])}"
    (folder / f"bad-loss-{rank}.txt").write_text(summary)


def _bad_data(rank, config, folder) -> None:
    """Shards that only the first process can see; leaves each process' error."""
    if rank == 1:
        missing = {"train": str(folder / "missing.tar")}
        config = config.model_copy(update={"data": config.data.model_copy(update=missing)})
    try:
        distill(config, folder / "bad data")
    except TinyClipError as error:
        (folder / f"bad-data-{rank}.txt").write_text(f"{type(error).__name__} {error}")


def _signal(rank, config, folder) -> None:
    """SIGTERM; leaves each process' last words."""
    step = Loop._step

    def signalled(loop, batch, done):
        step(loop, batch, done)
        if rank == 1 and done == STOP_STEP:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # launchers repeat it

    Loop._step = signalled
    try:
        distill(config, folder / "stopped")
    except TinyClipError as error:
        (folder / f"stopped-{rank}.txt").write_text(f"{error.exit_code} {error}")
    Loop._step = step


def fill_caches(rank, configs, folder: Path) -> None:
    """Fill the feature cache of each configuration; leaves what each process was told."""
    for name, config in configs.items():
        watcher = Watcher()
        result = cache_features(RunConfig.model_validate(config), ProgressLines(watcher))
        lines = [str(result.computed), str(result.pictures), *watcher.messages]
        (folder / f"{name}-{rank}.txt").write_text("\n".join(lines))
