"""The teacher's embeddings of pictures: of the target, and of the set through a feature cache.

D is their width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tinyclip_edge.config import RunConfig
from tinyclip_edge.config.load import make_config
from tinyclip_edge.data.marks import MARK
from tinyclip_edge.data.source import PairSource, Part
from tinyclip_edge.errors import DataError
from tinyclip_edge.train.accelerator import make_accelerator
from tinyclip_edge.train.caching import fill_on_cluster, open_filler
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller

_log = logging.getLogger(__name__)

FEWEST = 5  # pictures of a target; a density cannot be fitted to fewer

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TeacherSpace:
    """A teacher with its feature cache of the set."""

    config: RunConfig
    filler: FeatureCacheFiller

    @property
    def width(self) -> int:
        """D."""
        return self.filler.teacher.embedding_dim

    def fill(self, report: Callable[[int, int | None], None], cluster: str | None) -> None:
        """Compute the features that the cache lacks. Raises what cache_features raises."""
        watcher = _Watcher(report)
        if cluster is None:
            self.filler.fill(DistributedContext(), watcher)
        else:
            fill_on_cluster(self.config, self.filler, cluster, watcher)

    def of(self, part: Part, samples: npt.NDArray[np.uint8]) -> Floats:
        """Return unit-norm ``[P, D]`` of a part's pictures, NaN for those without features.

        ``samples``: marks ``[P, 16]`` of the pairs. Raises DataError if the part has none at all.
        """
        stored = self.filler.store.load(part)
        if stored is None:
            raise DataError(
                f"feature cache {self.filler.store.folder} has no features of {part.fingerprint}; "
                "run the same command again to compute them"
            )
        rows = {mark.tobytes(): row for row, mark in enumerate(stored.samples.reshape(-1, MARK))}
        numbers = np.array([rows.get(mark.tobytes(), -1) for mark in samples], dtype=np.int64)
        features = np.full((len(samples), self.width), np.nan, np.float32)
        there = numbers >= 0
        features[there] = stored.image[numbers[there], 0]
        return _normalized(features)

    def embed(self, pictures: Sequence[Path]) -> Floats:
        """Return unit-norm ``[N, D]`` of the pictures that can be decoded; DataError below five."""
        teacher = self.filler.teacher
        rows: list[Floats] = []
        waiting = iter(pictures)
        while chunk := list(islice(waiting, self.filler.batch)):
            pixels = [image for image in map(teacher.codec.decode, chunk) if image is not None]
            if pixels:
                rows.append(teacher.encode_images(torch.stack(pixels)).float().cpu().numpy())
        count = sum(map(len, rows))
        if count < FEWEST:
            raise DataError(
                f"the target has {count} of {len(pictures):,} images that can be decoded; at least "
                f"{FEWEST} are needed, and some dozens are better"
            )
        return _normalized(np.concatenate(rows))


def open_space(
    source: PairSource,
    names: Iterable[str],
    teacher: str,
    folder: Path,
) -> TeacherSpace:
    """Load a teacher and open its feature cache. Raises ModelError and DataError."""
    config = make_config(
        {
            "teacher": {"model": teacher},
            "student": {"model": teacher},  # required, but not built
            "data": {"train": list(names), "feature_cache": str(folder), "cache_teacher": True},
        }
    )
    device = make_accelerator(config.run).device
    return TeacherSpace(config, open_filler(config, (source,), device, _log.info))


class _Watcher:
    """Forwards the progress of a fill."""

    def __init__(self, report: Callable[[int, int | None], None]) -> None:
        self.on_pairs = report

    def on_message(self, text: str) -> None:
        """Log a line."""
        _log.info(text)


def _normalized(features: Floats) -> Floats:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Floats = features / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
