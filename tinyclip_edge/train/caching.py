"""Fill a feature cache without a run, in the processes of a launcher or on a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from tinyclip_edge.collection.embed_engines import Outcome, embed_on_cluster
from tinyclip_edge.collection.failed_units import MOST_FAILED, failed_units
from tinyclip_edge.collection.shard_units import Unit, with_losses
from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import PairSource, open_sources
from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.marks import part_mark, part_name
from tinyclip_edge.errors import MissingExtraError
from tinyclip_edge.models import load_clip
from tinyclip_edge.paths import expanded, is_folder
from tinyclip_edge.train.accelerator import make_accelerator
from tinyclip_edge.train.builder import make_teacher
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.feature_cache.check import check_cached
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller, make_filler
from tinyclip_edge.train.feature_cache.progress import (
    CacheResult,
    Computed,
    FillWatcher,
    ProgressLines,
    interrupted_fill,
)
from tinyclip_edge.train.monitoring.events import Silent
from tinyclip_edge.train.training_pairs import make_crops


def cache_features(
    config: RunConfig, watcher: FillWatcher, *, cluster: str | None = None
) -> CacheResult:
    """Fill ``data.feature_cache`` for what the run trains on; every process of a launcher calls it.

    ``cluster``: address of a Dask scheduler, whose machines share the folders with this one and
    compute the features. Existing parts are read completely to validate them. Raises ConfigError if
    there is no cache to fill, DataError, ModelError, and InterruptedRun on Ctrl-C.
    """
    check_cached(config.data)
    device = make_accelerator(config.run).device
    distributed = DistributedContext()
    own = watcher if distributed.main else ProgressLines(Silent())
    with distributed.agreed():
        sources = open_sources(config.data)
        filler = open_filler(config, sources, device, own.on_message)
    if cluster is not None:
        return fill_on_cluster(config, filler, cluster, watcher)
    return filler.fill(distributed, own, thorough=True)


def open_filler(
    config: RunConfig,
    sources: Sequence[PairSource],
    device: torch.device,
    warn: Callable[[str], None],
) -> FeatureCacheFiller:
    """Load the teachers of a configuration with a feature cache. Raises like cache_features."""
    clip = load_clip(config.teacher.model, config.teacher.pretrained)
    teacher = make_teacher(config, clip, device)
    filler = make_filler(config.data, sources, teacher, make_crops(config.data, clip), warn)
    assert filler is not None  # check_cached has verified both conditions
    return filler


def fill_on_cluster(
    config: RunConfig, filler: FeatureCacheFiller, address: str, watcher: FillWatcher
) -> CacheResult:
    """Fill the cache of ``config`` on a Dask cluster, one part after the other on each thread.

    Raises DataError for failed parts once the others are done or too many have failed; finished
    files stay.
    """
    began = time.perf_counter()
    missing = filler.store.missing(filler.parts, thorough=True)
    if not missing:
        return filler.result(Computed(), time.perf_counter() - began, None)
    estimate = filler.begin(missing, 1, watcher)
    parts = [filler.parts[number] for number in missing]
    units = [Unit(part_name(p), part_mark(p), (with_losses(p, Losses()),)) for p in parts]
    task = CacheTask(_with_absolute_paths(config).model_dump_json(), filler.captionless)
    total, failed = Computed(), list[Outcome[Computed]]()
    try:
        with closing(embed_on_cluster(task, units, address)) as outcomes:  # type: ignore[type-var]
            for outcome in outcomes:
                if outcome.result is None:
                    failed.append(outcome)
                    if isinstance(outcome.error, MissingExtraError):
                        raise outcome.error
                    if len(failed) == MOST_FAILED:
                        break
                else:
                    total = total.plus(outcome.result)
                    watcher.on_pairs(total.pictures, max(estimate.pairs, total.pictures))
    except KeyboardInterrupt:
        raise interrupted_fill(filler.store.folder, total.parts) from None
    if failed:
        raise failed_units(failed, len(units), "cached")
    return filler.result(total, time.perf_counter() - began, estimate)


@dataclass(frozen=True, slots=True)
class CacheTask:
    """Computes the features of parts on whichever worker it is sent to."""

    config: str  # JSON
    captionless: frozenset[str]  # see FeatureCacheFiller

    def run(self, unit: Unit) -> Computed:
        """Compute and store the features of the parts of a unit. Raises TinyClipError."""
        with _LOADING:  # threads of a worker share the teacher
            filler = _filler(self.config, self.captionless)
        total = Computed()
        for part in unit.parts:
            total = total.plus(filler.compute(part, lambda _: None))
        return total


_LOADING = threading.Lock()


@lru_cache(maxsize=1)
def _filler(config: str, captionless: frozenset[str]) -> FeatureCacheFiller:
    run = RunConfig.model_validate_json(config)
    device = make_accelerator(run.run).device
    filler = open_filler(run, (), device, lambda _: None)  # units contain their parts
    return replace(filler, captionless=captionless)


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return a configuration that another process understands, whatever its working folder."""

    def absolute(path: str) -> str:
        return str(Path(expanded(path)).absolute())

    def model(name: str) -> str:
        return absolute(name) if is_folder(Path(expanded(name))) else name

    assert config.data.feature_cache is not None
    teacher = config.teacher.model_copy(
        update={
            "model": model(config.teacher.model),
            "ensemble": [
                each.model_copy(update={"model": model(each.model)})
                for each in config.teacher.ensemble
            ],
        }
    )
    data = config.data.model_copy(update={"feature_cache": absolute(config.data.feature_cache)})
    return config.model_copy(update={"teacher": teacher, "data": data})
