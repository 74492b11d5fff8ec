"""Bring together what a run needs: device, models, pairs, task, optimizer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from tinyclip_edge.config import DataConfig, RunConfig, RunSection
from tinyclip_edge.data import (
    PairMemory,
    PairSource,
    PixelCodec,
    StreamingPairs,
    TeacherFeatures,
    open_source,
)
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.inherit import InheritanceReport
from tinyclip_edge.models import LoadedClip, load_clip, weights_hash
from tinyclip_edge.train.course import Stage
from tinyclip_edge.train.encode import pixel_codec
from tinyclip_edge.train.observe import Observer, Silent
from tinyclip_edge.train.ranks import Ranks
from tinyclip_edge.train.stages import resolve_course, start_student
from tinyclip_edge.train.teacher import Teacher
from tinyclip_edge.train.validation import Validation
from tinyclip_edge.train.workshop import Work, Workshop

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
GIGABYTE = 1e9
PATIENCE = timedelta(hours=2)  # of processes that wait for an evaluation or a checkpoint


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that a run works with, whatever its stage."""

    accelerator: Accelerator
    teacher: LoadedClip
    teacher_hash: str
    workshop: Workshop
    stages: tuple[Stage, ...]
    pairs: PairMemory | StreamingPairs
    validation: Validation | None
    features: TeacherFeatures | None
    shared_features: Path | None  # file of theirs that other runs use as well
    ranks: Ranks

    @property
    def shrinks(self) -> bool:
        """Whether masks or more than one stage make the student."""
        return len(self.stages) > 1 or self.stages[0].keep is not None

    @property
    def data_hash(self) -> str:
        """What the order of the batches depends on."""
        if isinstance(self.pairs, PairMemory):
            return self.pairs.fingerprint
        return f"stream: {self.pairs.source.fingerprint}"

    def take_features(self, path: Path) -> bool:
        """Load kept teacher features; False when there are none, or not the same everywhere."""
        if self.features is None:
            return False
        taken = self.features.load(path)
        if self.ranks.count > 1 and len(set(self.ranks.tell(self.features.digest()))) > 1:
            self.features.clear()
            return False
        return taken


def prepare(
    config: RunConfig, observer: Observer, teacher: LoadedClip | None = None
) -> tuple[Setup, Work]:
    """Load and check everything, down to the work of the first step; nothing is written.

    A teacher that is there is not loaded again.

    Raises ConfigError, DataError, ModelError and InheritanceError, cheap checks first.
    """
    accelerator = make_accelerator(config.run)
    ranks = Ranks()
    ranks.check_batch(config.optim.batch_size)
    watcher = observer if ranks.main else Silent()
    # Where one process cannot go on the others must not wait for it in accelerate.
    with ranks.agreed():
        made = _load_all(config, accelerator, ranks, watcher, teacher)
    setup, student, inherited = made
    if setup.shared_features is not None and setup.take_features(setup.shared_features):
        assert setup.features is not None
        watcher.on_message(
            f"{setup.features.filled} teacher features taken from {setup.shared_features}"
        )
    return setup, setup.workshop.begin(setup.stages[0], student, inherited)


def _load_all(
    config: RunConfig,
    accelerator: Accelerator,
    ranks: Ranks,
    observer: Observer,
    teacher: LoadedClip | None,
) -> tuple[Setup, LoadedClip, InheritanceReport | None]:
    data = config.data
    source = open_source(data.train, allow_pipes=data.allow_pipes)
    val_source = None if data.val is None else open_source(data.val, allow_pipes=data.allow_pipes)
    teacher = teacher or load_clip(config.teacher.model, config.teacher.pretrained)
    stages = resolve_course(config, teacher)
    student, inherited = start_student(config, teacher, stages[0])
    codec = pixel_codec(teacher)
    observer.on_message(f"teacher {teacher.name}, student {student.name}, reading {source.name}")
    room = int(config.data.memory_gb * GIGABYTE / picture_bytes(teacher))
    pairs: PairMemory | StreamingPairs
    if source.fits(room):
        pairs = _load(source, codec, config.data, observer)
        pairs.check_batch(config.optim.batch_size, distinct=config.data.batch_distinct)
    else:
        observer.on_message(f"{source.name} is streamed; teacher features are not kept")
        pairs = StreamingPairs(source, codec, workers=config.data.workers)
    validation = None
    if val_source is not None and ranks.main:
        memory = _load(val_source, codec, config.data, observer, limit=config.data.val_limit)
        validation = Validation(memory, codec)
    digest = weights_hash(teacher.model)
    features = _features(config.data, digest, teacher, pairs)
    shared = None
    if features is not None and config.data.feature_cache is not None:
        shared = features.shared_in(Path(config.data.feature_cache))
    asked = Teacher(teacher, codec, device=accelerator.device, features=features)
    workshop = Workshop(config, accelerator, teacher, asked, codec)
    setup = Setup(
        accelerator, teacher, digest, workshop, stages, pairs, validation, features, shared, ranks
    )
    return setup, student, inherited


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
    # accelerate remembers the first choice of a process; a second run may choose otherwise.
    AcceleratorState._reset_state(reset_partial_state=Ranks().count == 1)
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerator(mixed_precision=MIXED[run.precision], cpu=on_cpu, kwargs_handlers=[patience])


def picture_bytes(clip: LoadedClip) -> int:
    """Return the bytes of one decoded picture: three channels of uint8."""
    size = clip.config["preprocess_cfg"]["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return 3 * int(height) * int(width)


def _load(
    source: PairSource,
    codec: PixelCodec,
    data: DataConfig,
    observer: Observer,
    *,
    limit: int | None = None,
) -> PairMemory:
    memory = PairMemory.load(source, codec, workers=data.workers, limit=limit)
    skipped = memory.skipped()
    if skipped:
        observer.on_message(skipped)
    return memory


def _features(
    data: DataConfig, digest: str, teacher: LoadedClip, pairs: PairMemory | StreamingPairs
) -> TeacherFeatures | None:
    if not data.cache_teacher or not isinstance(pairs, PairMemory):
        return None
    key = f"{digest} {sorted(teacher.config['preprocess_cfg'].items())} {pairs.fingerprint}"
    return TeacherFeatures(key, len(pairs), len(pairs.captions))
