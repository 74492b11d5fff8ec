"""Fill a feature cache without a run."""

from __future__ import annotations

from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import open_source
from tinyclip_edge.models import load_clip
from tinyclip_edge.train.accelerator import make_accelerator
from tinyclip_edge.train.builder import make_crops, make_teacher
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.feature_cache.check import check_cached
from tinyclip_edge.train.feature_cache.fill import make_filler
from tinyclip_edge.train.feature_cache.progress import CacheResult, FillWatcher, ProgressLines
from tinyclip_edge.train.monitoring.events import Silent


def cache_features(config: RunConfig, watcher: FillWatcher) -> CacheResult:
    """Fill ``data.feature_cache`` for ``data.train``; every process of a launcher calls it.

    Existing parts are read completely to validate them. Raises ConfigError if there is no cache to
    fill, DataError, ModelError, and InterruptedRun on Ctrl-C.
    """
    data = config.data
    check_cached(data)
    accelerator = make_accelerator(config.run)
    distributed = DistributedContext()
    own = watcher if distributed.main else ProgressLines(Silent())
    with distributed.agreed():
        source = open_source(data.train, data.source_options)
        clip = load_clip(config.teacher.model, config.teacher.pretrained)
        teacher = make_teacher(config, clip, accelerator.device)
        filler = make_filler(data, source, teacher, make_crops(data, clip), own.on_message)
        assert filler is not None  # check_cached has verified both conditions
    return filler.fill(distributed, own, thorough=True)
