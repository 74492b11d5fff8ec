"""Fill a feature cache part by part, with the work divided among the processes of a launcher.

A part is a file; a killed fill continues after the parts that are complete. N pictures in V views
(1: the centre).
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinyclip_edge.config import DataConfig
from tinyclip_edge.data import (
    Crops,
    FeatureStore,
    PairSource,
    PartFeatures,
)
from tinyclip_edge.data.feature_part import Bytes
from tinyclip_edge.data.feature_store import recipe_digest
from tinyclip_edge.data.marks import MARK, caption_mark, part_mark, sample_mark
from tinyclip_edge.data.pairs import Halves, Pair
from tinyclip_edge.data.source import Part
from tinyclip_edge.data.texts import TextsPart
from tinyclip_edge.errors import DataError
from tinyclip_edge.paths import expanded
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.feature_cache.parts import parts_to_cache
from tinyclip_edge.train.feature_cache.progress import (
    CacheResult,
    Computed,
    Estimate,
    FillWatcher,
    interrupted_fill,
)
from tinyclip_edge.train.tasks.teacher import Teacher
from tinyclip_edge.units import size

SETTINGS, DIGITS = "{settings}", 12  # in a folder's name, and of the hash that replaces it
BATCH = {"cpu": 64, "cuda": 512}
WARMUP, MEASURED = 2, 32  # pairs used for the estimate
HALF, SEED = 2, 8  # bytes


@dataclass(frozen=True, slots=True)
class FeatureCacheFiller:
    """Computes and stores the features of teachers, each part of a source once."""

    store: FeatureStore
    sources: tuple[PairSource, ...]
    teacher: Teacher
    crops: Crops | None
    workers: int  # decoding threads
    parts: tuple[Part, ...]  # of the sources, and their texts that belong to no picture
    captionless: frozenset[str]  # marks of parts whose captions are ignored

    @property
    def batch(self) -> int:
        """Pictures, or captions, per forward pass of the teachers."""
        return BATCH[self.teacher.device.type]

    @property
    def views(self) -> int:
        """Rows per picture."""
        return 1 if self.crops is None else self.crops.count

    def fill(
        self, distributed: DistributedContext, watcher: FillWatcher, *, thorough: bool = False
    ) -> CacheResult:
        """Compute the missing parts, each in one process; all processes call it.

        ``thorough`` reads the other parts completely to validate them. Raises DataError if the disk
        is full or not writable, InterruptedRun on Ctrl-C.
        """
        began = time.perf_counter()
        missing: list[int] = []
        estimate: Estimate | None = None
        with distributed.agreed():
            if distributed.main:
                missing = self.store.missing(self.parts, thorough=thorough)
                if missing:
                    estimate = self.begin(missing, distributed.count, watcher)
        todo = distributed.all_gather(missing)[0][distributed.number :: distributed.count]
        share = 0 if estimate is None else -(-estimate.pairs // distributed.count)
        with distributed.agreed():
            done = self._compute(todo, share, watcher)
        total = Computed()
        for each in distributed.all_gather(done):
            total = total.plus(each)
        return self.result(total, time.perf_counter() - began, estimate)

    def result(self, computed: Computed, seconds: float, estimate: Estimate | None) -> CacheResult:
        """Return the result of a fill with these counts."""
        return CacheResult(
            folder=self.store.folder,
            parts=len(self.parts),
            computed=computed.parts,
            pictures=computed.pictures,
            captions=computed.captions,
            undecodable=computed.undecodable,
            nbytes=computed.nbytes,
            seconds=seconds,
            estimate=estimate,
        )

    def estimate(self, missing: Sequence[int], processes: int) -> Estimate:
        """Count the pairs of parts, and time the teachers on a few of them."""
        parts = tuple(self.parts[number] for number in missing)
        count = PairSource("", parts).count().pairs
        texts = [text for part in parts if isinstance(part, TextsPart) for text in part.texts]
        sample = list(islice(parts[0], WARMUP + MEASURED))
        captioned = self._is_captioned(parts[0])
        self._features(sample[:WARMUP], lambda _: None, captioned=captioned)
        pairs = sample[-MEASURED:]
        began = time.perf_counter()
        features = self._features(pairs, lambda _: None, captioned=captioned)
        seconds = time.perf_counter() - began
        measured = max(1, len(pairs))  # 0 if all pairs of a part are faulty
        seconds *= count / measured
        nbytes = self.nbytes(count, len(features.text) / measured)
        if texts:
            began = time.perf_counter()
            self.teacher.encode_texts(texts[:MEASURED])
            each = (time.perf_counter() - began) / len(texts[:MEASURED])
            seconds += each * len(texts)
            nbytes += self.nbytes(1, len(texts)) - self.nbytes(1, 0)
        return Estimate(count, nbytes, seconds / processes)

    def nbytes(self, pairs: int, captions: float) -> int:
        """Return the bytes of a cache of ``pairs`` with that many distinct captions each."""
        row = self.teacher.embedding_dim * HALF
        picture = self.views * (row + (SEED if self.crops is not None else 0)) + MARK
        return round(pairs * (picture + captions * (row + MARK)))

    def begin(self, missing: Sequence[int], processes: int, watcher: FillWatcher) -> Estimate:
        """Create the folder and announce the estimate. Raises DataError if the disk is too full."""
        estimate = self.estimate(missing, processes)
        parts = f"{len(missing):,} of {len(self.parts):,} parts"
        watcher.on_message(f"feature cache {self.store.folder}: {parts} are missing, {estimate}")
        free = shutil.disk_usage(_existing(self.store.folder)).free
        if free < estimate.nbytes:
            raise DataError(
                f"feature cache {self.store.folder} needs about {size(estimate.nbytes)}, but "
                f"its disk has {size(free)} left; free some space, or set data.feature_cache "
                "to a folder on another disk"
            )
        self.store.create()
        return estimate

    def compute(self, part: Part, on_pairs: Callable[[int], None]) -> Computed:
        """Compute and store the features of a part. Raises DataError."""
        texts = part.texts if isinstance(part, TextsPart) else ()
        features = self._features(part, on_pairs, texts, captioned=self._is_captioned(part))
        self.store.save(part, features)
        return Computed(
            1, len(features.samples), len(features.captions), features.bad, features.nbytes
        )

    def _compute(self, todo: Sequence[int], share: int, watcher: FillWatcher) -> Computed:
        totals, pairs = Computed(), 0

        def count_pairs(more: int) -> None:
            nonlocal pairs
            pairs += more
            watcher.on_pairs(pairs, max(share, pairs))

        try:
            for number in todo:
                totals = totals.plus(self.compute(self.parts[number], count_pairs))
        except KeyboardInterrupt:
            raise interrupted_fill(self.store.folder, totals.parts) from None
        return totals

    def _is_captioned(self, part: Part) -> bool:
        return part_mark(part) not in self.captionless

    def _features(
        self,
        pairs: Iterable[Pair],
        on_pairs: Callable[[int], None],
        own_texts: Iterable[str] = (),
        *,
        captioned: bool,
    ) -> PartFeatures:
        """Compute the features of all pictures in order, then of every distinct text.

        The texts are ``own_texts`` and, if ``captioned``, the captions of the pairs.
        """
        marks: list[bytes] = []
        seeds: list[list[int]] = []
        images: list[Halves] = []
        texts = dict.fromkeys(own_texts)
        undecodable = 0
        for chunk in self._decoded(iter(pairs)):
            if captioned:
                texts.update(dict.fromkeys(text for pair, _ in chunk for text in pair.captions))
            decoded = [(pair, image) for pair, image in chunk if image is not None]
            undecodable += len(chunk) - len(decoded)
            marks += [sample_mark(pair) for pair, _ in decoded]
            seeds += [
                [] if self.crops is None else self.crops.seeds(pair.key) for pair, _ in decoded
            ]
            if decoded:
                features = self.teacher.encode_images(torch.cat([image for _, image in decoded]))
                images.append(_halves(features))
            on_pairs(len(chunk))
        captions = list(texts)
        width = self.teacher.embedding_dim
        text_rows = [
            _halves(self.teacher.encode_texts(captions[start : start + self.batch]))
            for start in range(0, len(captions), self.batch)
        ]
        return PartFeatures(
            _stacked(images, width).reshape(-1, self.views, width),
            np.array(seeds, dtype=np.int64).reshape(
                len(marks), 0 if self.crops is None else self.views
            ),
            _marks(marks),
            _stacked(text_rows, width),
            _marks([caption_mark(text) for text in captions]),
            undecodable,
        )

    def _decoded(self, pairs: Iterator[Pair]) -> Iterator[list[tuple[Pair, Tensor | None]]]:
        """Yield pairs with their pictures ``[V, 3, H, W]``; the next ones are decoded ahead."""
        size = max(1, self.batch // self.views)
        waiting: deque[list[tuple[Pair, Future[Tensor | None]]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            while chunk := list(islice(pairs, size)):
                waiting.append([(pair, pool.submit(self._decode, pair)) for pair in chunk])
                if len(waiting) > 1:
                    yield [(pair, future.result()) for pair, future in waiting.popleft()]
            for last in waiting:
                yield [(pair, future.result()) for pair, future in last]

    def _decode(self, pair: Pair) -> Tensor | None:
        if self.crops is not None:
            return self.crops.decode(pair.image, *self.crops.seeds(pair.key))
        image = self.teacher.codec.decode(pair.image)
        return None if image is None else image[None]


def make_filler(
    data: DataConfig,
    sources: Sequence[PairSource],
    teacher: Teacher,
    crops: Crops | None,
    warn: Callable[[str], None],
) -> FeatureCacheFiller | None:
    """Return the filler of ``data.feature_cache``, None without one.

    ``{settings}`` in the folder's name is a hash of what its features depend on. Raises DataError
    if the folder belongs to other teachers or views.
    """
    if data.feature_cache is None or not data.cache_teacher:
        return None
    recipe = teacher.recipe(crops)
    folder = expanded(data.feature_cache).replace(SETTINGS, recipe_digest(recipe)[:DIGITS])
    store = FeatureStore(Path(folder), recipe, warn)
    parts, captionless = parts_to_cache(sources)
    return FeatureCacheFiller(
        store, tuple(sources), teacher, crops, data.workers, parts, captionless
    )


def _halves(features: Tensor) -> Halves:
    halves: Halves = features.to("cpu", torch.float16).numpy()
    return halves


def _stacked(rows: Sequence[Halves], width: int) -> Halves:
    return np.concatenate(rows) if rows else np.zeros((0, width), dtype=np.float16)


def _marks(marks: Sequence[bytes]) -> Bytes:
    return np.frombuffer(b"".join(marks), dtype=np.uint8).reshape(-1, MARK)


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
