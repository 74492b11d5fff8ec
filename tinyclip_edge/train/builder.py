"""Bring together what a run needs: device, models, pairs, task, optimizer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from tinyclip_edge.config import DataConfig, RunConfig, RunSection
from tinyclip_edge.data import (
    Crops,
    PairMemory,
    PairSource,
    PixelCodec,
    StreamingPairs,
    TeacherFeatures,
    open_source,
)
from tinyclip_edge.data.feature_store import CachedPart, recipe_digest
from tinyclip_edge.data.marks import part_mark
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller, make_filler
from tinyclip_edge.train.feature_cache.progress import ProgressLines
from tinyclip_edge.train.monitoring.events import Observer, Silent
from tinyclip_edge.train.monitoring.trackers import check_trackers
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.stages.state import StageFactory, StageState
from tinyclip_edge.train.stages.student import resolve_course, start_student
from tinyclip_edge.train.tasks.encoders import pixel_codec
from tinyclip_edge.train.tasks.teacher import AT_ONCE, Teacher, load_also, teacher_dtype
from tinyclip_edge.train.tasks.validation import Validation

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
GIGABYTE = 1e9
SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
PATIENCE = timedelta(hours=2)  # of processes that wait for an evaluation or a checkpoint


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that a run works with, whatever its stage."""

    accelerator: Accelerator
    teacher: LoadedClip
    teacher_hash: str
    workshop: StageFactory
    stages: tuple[Stage, ...]
    pairs: PairMemory | StreamingPairs
    validation: Validation | None
    features: TeacherFeatures | None  # of pairs in memory
    filler: FeatureCacheFiller | None  # of the feature cache
    ranks: DistributedContext
    data_hash: str  # of what the batches depend on
    recipe: str  # digest of what the teacher's answers follow from

    @property
    def shrinks(self) -> bool:
        """Whether masks or more than one stage make the student."""
        return len(self.stages) > 1 or self.stages[0].keep is not None

    @property
    def is_short(self) -> bool:
        """Whether the run ends within its first epoch; of a stream it is not known."""
        samples = self.stages[-1].end * self.workshop.config.optim.batch_size
        return isinstance(self.pairs, PairMemory) and samples < len(self.pairs)

    def take_features(self, path: Path) -> str | None:
        """Load kept teacher features; what is wrong with them where none can be taken."""
        if self.features is None:
            return None
        faults = self.ranks.tell(self.features.load(path))
        if not self._alike(self.features):
            self.features.clear()
            return "are not the same for all processes"
        return next((fault for fault in faults if fault is not None), None)

    def compute_features(self, steps: int) -> None:
        """Ask for what the first ``steps`` steps asked for, in the same batches.

        The same numbers come out to the bit: which rows share a matrix decides how sums round.
        """
        features, config = self.features, self.workshop.config
        if features is None or not isinstance(self.pairs, PairMemory):
            return
        size, augmented = config.optim.batch_size, config.data.augment_crop is not None
        batches = self.pairs.batches(
            0,
            size,
            seed=config.seed,
            distinct=config.data.batch_distinct,
            rows=self.ranks.rows(size),
        )
        for batch in islice(batches, steps):
            self.workshop.asked.remember(batch, pictures=not augmented)
            if features.filled == len(features.image) + len(features.text):
                return

    def take_cache(self, observer: Observer) -> None:
        """Hand what the feature cache holds to pairs in memory; a stream reads it by itself.

        Raises DataError where the processes do not see the same cache.
        """
        if self.filler is None or self.features is None or not isinstance(self.pairs, PairMemory):
            return
        store = self.filler.store
        store.give(self.filler.source.parts, self.pairs, self.features)
        if not self._alike(self.features):
            raise DataError(
                f"feature cache {store.folder} is not the same for all processes; put it on a disk "
                f"that they share, or set data.feature_cache=null"
            )
        if self.features.filled:
            observer.on_message(
                f"{self.features.filled} teacher features taken from {store.folder}"
            )

    def _alike(self, features: TeacherFeatures) -> bool:
        return self.ranks.count == 1 or len(set(self.ranks.tell(features.digest()))) == 1


def prepare(
    config: RunConfig,
    observer: Observer,
    teacher: LoadedClip | None = None,
    *,
    fill: bool = False,
) -> tuple[Setup, StageState]:
    """Load and check everything, down to the work of the first step; nothing is written.

    But for the feature cache, with ``fill``: what it lacks is computed and kept. A teacher that is
    there is not loaded again.

    Raises ConfigError, DataError, ModelError and InheritanceError, cheap checks first.
    """
    check_trackers(config.run.trackers)
    accelerator = make_accelerator(config.run)
    ranks = DistributedContext()
    ranks.check_batch(config.optim.batch_size)
    watcher = observer if ranks.main else Silent()
    # Where one process cannot go on the others must not wait for it in accelerate.
    with ranks.agreed():
        made = _load_all(config, accelerator, ranks, watcher, teacher)
    setup, student, inherited = made
    if fill and setup.filler is not None:
        if setup.is_short:
            watcher.on_message("the run is shorter than an epoch: its feature cache is not filled")
        else:
            setup.filler.fill(ranks, ProgressLines(watcher))
    setup.take_cache(watcher)
    return setup, setup.workshop.begin(setup.stages[0], student, inherited)


def _load_all(
    config: RunConfig,
    accelerator: Accelerator,
    ranks: DistributedContext,
    observer: Observer,
    teacher: LoadedClip | None,
) -> tuple[Setup, LoadedClip, InheritanceReport | None]:
    data = config.data
    source = open_source(data.train, data.source_options)
    val_source = None if data.val is None else open_source(data.val, data.source_options)
    teacher = teacher or load_clip(config.teacher.model, config.teacher.pretrained)
    stages = resolve_course(config, teacher)
    student, inherited = start_student(config, teacher, stages[0])
    asked = make_teacher(config, teacher, accelerator.device)
    crops = make_crops(data, teacher)
    filler = None
    if any(entry.uses_teacher for entry in config.loss.active.values()):
        filler = make_filler(data, source, asked, crops, observer.on_message)
    observer.on_message(f"teacher {asked.name}, student {student.name}, reading {source.name}")
    pairs = _open_pairs(config, source, asked, filler, observer)
    validation = None
    if val_source is None:
        observer.on_message("data.val is null: neither teacher nor student is measured on the way")
    if val_source is not None and ranks.main:
        memory = _load(val_source, asked.codec, data, observer, limit=data.val_limit)
        validation = Validation(memory, asked.codec)
    recipe = asked.recipe(crops)
    asked.features = features = _features(data, recipe, pairs)
    workshop = StageFactory(config, accelerator, teacher, asked, asked.codec)
    setup = Setup(
        accelerator,
        teacher,
        asked.sha256,
        workshop,
        stages,
        pairs,
        validation,
        features,
        filler,
        ranks,
        data_hash(pairs),
        # What a device computes in moves features by rounding.
        recipe_digest({**recipe, "teachers": [_without(t, "dtype") for t in recipe["teachers"]]}),
    )
    return setup, student, inherited


def make_teacher(config: RunConfig, first: LoadedClip, device: torch.device) -> Teacher:
    """Return the first teacher joined with the others of the configuration; ModelError."""
    return Teacher(
        first,
        pixel_codec(first),
        device=device,
        also=load_also(config.teacher),
        dtype=teacher_dtype(config.run.precision, device),
        at_once=min(AT_ONCE, config.run.micro_batch or AT_ONCE),
    )


def make_crops(data: DataConfig, teacher: LoadedClip) -> Crops | None:
    """Return the views of pictures; None where only the centre is shown."""
    if data.views == 0:
        return None
    return Crops(data.views, data.crop_scale, picture_size(teacher))


def _open_pairs(
    config: RunConfig,
    source: PairSource,
    asked: Teacher,
    filler: FeatureCacheFiller | None,
    observer: Observer,
) -> PairMemory | StreamingPairs:
    """Load what fits into memory; stream what does not."""
    data, size, teacher = config.data, config.optim.batch_size, asked.voices[0].clip
    crops, bound = make_crops(data, teacher), data.memory_gb * GIGABYTE
    if source.fits(int(bound / picture_bytes(teacher))) if crops is None else source.holds(bound):
        memory = _load(source, asked.codec, data, observer, crops=crops)
        memory.check_batch(size, distinct=data.batch_distinct)
        return memory
    kept = "not kept" if filler is None else f"read from {filler.store.folder}"
    observer.on_message(f"{source.name} is streamed; teacher features are {kept}")
    for line in source.losses.lines():  # of tables and folders: known before they are streamed
        observer.on_message(line)
    streamed = source if filler is None else filler.store.attached(source)
    pairs = StreamingPairs(
        streamed, asked.codec, workers=data.workers, stream_groups=data.stream_groups, crops=crops
    )
    pairs.check_batch(size)
    return pairs


def make_accelerator(run: RunSection) -> Accelerator:
    """Return accelerate's view of device and precision; ConfigError when the machine lacks them."""
    cuda = torch.cuda.is_available()
    if run.device == "cuda" and not cuda:
        raise ConfigError("run.device is cuda, but torch sees no CUDA device; set run.device=cpu")
    on_cpu = run.device == "cpu" or not cuda
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by launchers
    if not on_cpu and here > torch.cuda.device_count():
        raise ConfigError(
            f"{here} processes were started on a machine of {torch.cuda.device_count()} CUDA "
            f"devices; start one a device, or set run.device=cpu"
        )
    if run.precision == "fp16" and on_cpu:
        raise ConfigError("run.precision fp16 needs a CUDA device; set run.precision to fp32")
    for name, kind in SHARDED.items():
        if os.environ.get(name, "").lower() == "true":
            raise ConfigError(
                f"{kind} is not supported: models of CLIP's size fit one device, and a large batch "
                f"does with run.micro_batch; launch without it"
            )
    # accelerate remembers the first choice of a process; a second run may choose otherwise.
    AcceleratorState._reset_state(reset_partial_state=DistributedContext().count == 1)
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    # On a CPU the fused kernel's bf16 gradient takes 2 to 4 times as long at 17 to 65 tokens. The
    # switch is CUDA's by name and every device's in effect.
    torch.backends.cuda.enable_flash_sdp(not (on_cpu and run.precision == "bf16"))
    return Accelerator(mixed_precision=MIXED[run.precision], cpu=on_cpu, kwargs_handlers=[patience])


def picture_bytes(clip: LoadedClip) -> int:
    """Return the bytes of one decoded picture: three channels of uint8."""
    height, width = picture_size(clip)
    return 3 * height * width


def picture_size(clip: LoadedClip) -> tuple[int, int]:
    """Return height and width of what the preprocessing of a model gives, in pixels."""
    size = clip.config["preprocess_cfg"]["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _load(
    source: PairSource,
    codec: PixelCodec,
    data: DataConfig,
    observer: Observer,
    *,
    limit: int | None = None,
    crops: Crops | None = None,
) -> PairMemory:
    memory = PairMemory.load(source, codec, workers=data.workers, limit=limit, crops=crops)
    for line in memory.skipped():
        observer.on_message(line)
    return memory


def _features(
    data: DataConfig, recipe: Mapping[str, Any], pairs: PairMemory | StreamingPairs
) -> TeacherFeatures | None:
    if not data.cache_teacher or not isinstance(pairs, PairMemory):
        return None
    key = f"{recipe_digest(recipe)} {pairs.fingerprint}"
    return TeacherFeatures(key, len(pairs) * max(1, data.views), len(pairs.captions))


def data_hash(pairs: PairMemory | StreamingPairs) -> str:
    """Return a hash of what the batches of a run depend on, wherever it lies on the disk."""
    digest = hashlib.sha256()
    if isinstance(pairs, PairMemory):
        digest.update(pairs.fingerprint.encode())
        for mark in pairs.marks:
            digest.update(mark)
        return digest.hexdigest()
    for part in pairs.source.parts:
        own = part.part if isinstance(part, CachedPart) else part
        digest.update(part_mark(own).encode())
    return f"stream: {digest.hexdigest()}"


def order_hash(pairs: PairMemory | StreamingPairs) -> str:
    """Return a hash of what the order of the batches depends on, without the pictures."""
    if isinstance(pairs, PairMemory):
        return pairs.fingerprint
    return f"stream: {pairs.source.fingerprint}"


def _without(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != key}
