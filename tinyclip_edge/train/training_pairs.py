"""The pairs that a run trains on, in memory or streamed, and hashes to recognise them on resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from tinyclip_edge.config import DataConfig, RunConfig
from tinyclip_edge.data import (
    Crops,
    MixedPairs,
    PairMemory,
    PairSource,
    PixelCodec,
    StreamingPairs,
    TrainingPairs,
    joined,
)
from tinyclip_edge.data.cached_part import CachedPart
from tinyclip_edge.data.marks import part_mark
from tinyclip_edge.data.mixture import mixed
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller
from tinyclip_edge.train.monitoring.events import Observer
from tinyclip_edge.train.tasks.encoders import picture_bytes, picture_size
from tinyclip_edge.train.tasks.teacher import Teacher

GIGABYTE = 1e9


def open_pairs(
    config: RunConfig,
    sources: Sequence[PairSource],
    teacher: Teacher,
    filler: FeatureCacheFiller | None,
    observer: Observer,
    *,
    shrink: bool,
) -> TrainingPairs:
    """Load pairs that fit into memory, stream others; ``shrink`` allows fewer than a batch."""
    data, size, clip = config.data, config.optim.batch_size, teacher.members[0].clip
    crops, limit = make_crops(data, clip), data.memory_gb * GIGABYTE
    source, weights = joined(sources), [each.weight for each in data.sources]
    if source.fits(int(limit / picture_bytes(clip))) if crops is None else source.holds(limit):
        memories = [
            load_pairs(each, teacher.codec, data, observer, crops=crops) for each in sources
        ]
        memory = mixed(memories, weights)
        if not shrink:
            memory.check_batch(size, distinct=data.batch_distinct)
        return memory
    cache = "not kept" if filler is None else f"read from {filler.store.folder}"
    observer.on_message(f"{source.name} is streamed; teacher features are {cache}")
    for each in sources:
        for line in each.known():  # what tables and folders reveal before they are streamed
            observer.on_message(line)
    pairs = mixed(
        [
            StreamingPairs(
                each if filler is None else filler.store.attached(each),
                teacher.codec,
                workers=data.workers,
                stream_groups=data.stream_groups,
                crops=crops,
            )
            for each in sources
        ],
        weights,
    )
    pairs.check_batch(size, distinct=data.batch_distinct)
    return pairs


def load_pairs(
    source: PairSource,
    codec: PixelCodec,
    data: DataConfig,
    observer: Observer,
    *,
    limit: int | None = None,
    crops: Crops | None = None,
) -> PairMemory:
    """Load a source into memory, and report what was left out. Raises DataError."""
    memory = PairMemory.load(source, codec, workers=data.workers, limit=limit, crops=crops)
    for line in memory.skipped():
        observer.on_message(line)
    return memory


def make_crops(data: DataConfig, teacher: LoadedClip) -> Crops | None:
    """Return the views of pictures; None if only the centre crop is shown."""
    if data.views == 0:
        return None
    return Crops(data.views, data.crop_scale, picture_size(teacher))


def data_hash(pairs: TrainingPairs) -> str:
    """Return a hash of everything on which the batches of a run depend, except disk paths."""
    digest = hashlib.sha256()
    if isinstance(pairs, MixedPairs):
        return f"mixture: {_hash(pairs, data_hash)}"
    if isinstance(pairs, PairMemory):
        digest.update(pairs.fingerprint.encode())
        for mark in pairs.marks:
            digest.update(mark)
        return digest.hexdigest()
    for part in pairs.source.parts:
        own = part.part if isinstance(part, CachedPart) else part
        digest.update(part_mark(own).encode())
    if pairs.source.texts is not None:
        digest.update(pairs.source.texts.fingerprint.encode())
    return f"stream: {digest.hexdigest()}"


def order_hash(pairs: TrainingPairs) -> str:
    """Return a hash of everything on which the order of batches depends, without the pictures."""
    if isinstance(pairs, MixedPairs):
        return f"mixture: {_hash(pairs, order_hash)}"
    if isinstance(pairs, PairMemory):
        return pairs.fingerprint
    return f"stream: {pairs.source.fingerprint}"


def _hash(pairs: MixedPairs, each: Callable[[TrainingPairs], str]) -> str:
    parts = zip(pairs.members, pairs.weights, strict=True)
    text = "\n".join(f"{each(member)} {weight}" for member, weight in parts)
    return hashlib.sha256(text.encode()).hexdigest()
