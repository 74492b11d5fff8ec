"""Load everything that a run needs: device, models, pairs, teacher features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from tinyclip_edge.config import DataConfig, RunConfig
from tinyclip_edge.config.sources import SourceConfig, TextsConfig
from tinyclip_edge.data import (
    Crops,
    PairSource,
    TeacherFeatures,
    TrainingPairs,
    joined,
    open_configured,
    open_source,
    open_sources,
)
from tinyclip_edge.data.feature_store import recipe_digest
from tinyclip_edge.data.texts import open_labels
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.train.accelerator import make_accelerator
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller, make_filler
from tinyclip_edge.train.feature_cache.progress import ProgressLines
from tinyclip_edge.train.monitoring.events import Observer, Silent
from tinyclip_edge.train.monitoring.trackers import check_trackers
from tinyclip_edge.train.schedule import Stage, plan_stages
from tinyclip_edge.train.setup import Setup
from tinyclip_edge.train.stages.factory import StageFactory
from tinyclip_edge.train.stages.state import StageState
from tinyclip_edge.train.stages.student import InitialStudent, resolve_stages, start_student
from tinyclip_edge.train.tasks.agreement import folder_labels
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskMaker
from tinyclip_edge.train.tasks.encoders import pixel_codec
from tinyclip_edge.train.tasks.ensemble import load_ensemble, teacher_dtype
from tinyclip_edge.train.tasks.teacher import MAX_BATCH, Teacher
from tinyclip_edge.train.tasks.validation import Validation
from tinyclip_edge.train.training_pairs import data_hash, load_pairs, make_crops, open_pairs
from tinyclip_edge.train.vocabulary import Origin, origin_of


@dataclass(frozen=True, slots=True)
class FinetunedStudent:
    """A trained student, the task that trains it further, and how to adapt the configuration."""

    clip: LoadedClip
    task: TaskMaker
    fit: Callable[[RunConfig, LoadedClip, Teacher, TrainingPairs], RunConfig]


def prepare(
    config: RunConfig, observer: Observer, teacher: LoadedClip | None = None
) -> tuple[Setup, StageState]:
    """Load and check everything, and return it with the state of the first step.

    A ``teacher`` that is passed in is not loaded again; nothing is written. Raises ConfigError,
    DataError, ModelError and InheritanceError, cheap checks first.
    """
    setup, first = load_setup(config, observer, teacher)
    return setup, setup.factory.begin(setup.stages[0], first)


def load_setup(
    config: RunConfig,
    observer: Observer,
    teacher: LoadedClip | None = None,
    *,
    fill: bool = False,
    finetune: FinetunedStudent | None = None,
    vocabulary: Path | None = None,
) -> tuple[Setup, InitialStudent]:
    """Load and check everything that a run uses; nothing is written.

    With ``fill``, missing features are computed and written into the feature cache. ``finetune``
    replaces the new student with a trained one. A resumed run passes its ``vocabulary`` file.
    Raises the same errors as ``prepare``.
    """
    check_trackers(config.run.trackers)
    accelerator = make_accelerator(config.run)
    distributed = DistributedContext()
    distributed.check_batch(config.optim.batch_size)
    watcher = observer if distributed.main else Silent()
    # If one process fails, the others must not wait for it in accelerate.
    with distributed.agreed():
        setup, first = _load_all(
            config, accelerator, distributed, watcher, teacher, finetune, vocabulary
        )
    if fill and setup.filler is not None:
        if setup.is_short:
            watcher.on_message("run shorter than an epoch, so its feature cache is not filled")
        else:
            setup.filler.fill(distributed, ProgressLines(watcher))
    setup.read_cache(watcher)
    return setup, first


def _load_all(
    config: RunConfig,
    accelerator: Accelerator,
    distributed: DistributedContext,
    observer: Observer,
    teacher_clip: LoadedClip | None,
    finetune: FinetunedStudent | None,
    vocabulary: Path | None,
) -> tuple[Setup, InitialStudent]:
    data = config.data
    sources = open_sources(data)
    val_source = None if data.val is None else open_source(data.val, data.source_options)
    teacher_clip = teacher_clip or load_clip(config.teacher.model, config.teacher.pretrained)
    origin = Origin(teacher_clip)
    if finetune is None:
        origin = origin_of(config, teacher_clip, observer.on_message, kept=vocabulary)
    stages, first = _first_student(config, origin.clip, finetune)
    teacher = make_teacher(config, teacher_clip, accelerator.device)
    crops = make_crops(data, teacher_clip)
    source = joined(sources)
    filler = _filler(config, sources, teacher, crops, observer)
    observer.on_message(f"teacher {teacher.name}, student {first.clip.name}, reading {source.name}")
    pairs = open_pairs(config, sources, teacher, filler, observer, shrink=finetune is not None)
    if finetune is not None:
        config = finetune.fit(config, finetune.clip, teacher, pairs)
    validation = None
    if distributed.main:  # no other process evaluates
        validation = _open_validation(config, val_source, teacher, observer)
    recipe = teacher.recipe(crops)
    features = _features(data, recipe, pairs)
    teacher = teacher.with_features(features)
    dense_task = DistillTask if finetune is None else finetune.task
    setup = Setup(
        config,
        accelerator,
        teacher,
        teacher_clip,
        teacher.sha256,
        StageFactory(config, accelerator, teacher_clip, teacher, teacher.codec, dense_task),
        stages,
        pairs,
        validation,
        features,
        filler,
        distributed,
        data_hash(pairs),
        # Rounding aside, features do not depend on the dtype that a device computes in.
        recipe_digest({**recipe, "teachers": [_without(t, "dtype") for t in recipe["teachers"]]}),
        origin.kept,
    )
    return setup, first


def _first_student(
    config: RunConfig, origin: LoadedClip, finetune: FinetunedStudent | None
) -> tuple[tuple[Stage, ...], InitialStudent]:
    if finetune is not None:
        set_seed(config.seed)
        return plan_stages(config), InitialStudent(finetune.clip)
    stages = resolve_stages(config, origin)
    return stages, start_student(config, origin, stages[0])


def make_teacher(config: RunConfig, first: LoadedClip, device: torch.device) -> Teacher:
    """Return the first teacher combined with the others of the configuration; raise ModelError."""
    return Teacher(
        first,
        pixel_codec(first),
        device=device,
        ensemble=load_ensemble(config.teacher),
        temperature=config.teacher.temperature,
        fusion=config.teacher.fusion,
        dtype=teacher_dtype(config.run.precision, device),
        max_batch=min(MAX_BATCH, config.run.micro_batch or MAX_BATCH),
    )


def _filler(
    config: RunConfig,
    sources: Sequence[PairSource],
    teacher: Teacher,
    crops: Crops | None,
    observer: Observer,
) -> FeatureCacheFiller | None:
    """Return the filler of the feature cache; None without one, or if no term uses the teacher."""
    if not any(entry.uses_teacher for entry in config.loss.active.values()):
        return None
    return make_filler(config.data, sources, teacher, crops, observer.on_message)


def _open_validation(
    config: RunConfig, source: PairSource | None, teacher: Teacher, observer: Observer
) -> Validation | None:
    """Load the validation pairs; None without any."""
    data = config.data
    if source is None and data.val_images is not None:
        return _without_captions(config, data.val_images, teacher, observer)
    if source is None:
        observer.on_message(
            "data.val is null: teacher and student are not evaluated during the run"
        )
        return None
    memory = load_pairs(source, teacher.codec, data, observer, limit=data.val_limit)
    return Validation(memory, teacher.codec)


def _without_captions(
    config: RunConfig, images: str | list[str], teacher: Teacher, observer: Observer
) -> Validation:
    """Load pictures without captions, and the teacher's logits for them."""
    data, scale = config.data, config.loss.teacher_logit_scale or teacher.scale
    named = data.val_texts or data.texts
    source = open_configured(SourceConfig(images=images, texts=named), data.source_options)
    assert source.texts is not None  # pictures without captions have texts of their own
    texts = replace(source.texts, lines=source.texts.lines[: data.val_limit])
    source = replace(source, texts=texts)
    memory = load_pairs(source, teacher.codec, data, observer, limit=data.val_limit)
    validation = Validation(memory, teacher.codec)
    labels, templates = None, 1
    if isinstance(named, TextsConfig):
        templates = len(named.templates)
        if len(memory.captions) == len(open_labels(named)) * templates:  # none is repeated or cut
            labels = folder_labels(memory.keys, named)
    reference = teacher.logits(validation, scale)
    return replace(validation, reference=reference, labels=labels, templates=templates)


def _features(
    data: DataConfig, recipe: Mapping[str, Any], pairs: TrainingPairs
) -> TeacherFeatures | None:
    memories = pairs.memories
    if not data.cache_teacher or not memories:
        return None
    key = f"{recipe_digest(recipe)} {' '.join(each.fingerprint for each in memories)}"
    pictures = sum(map(len, memories)) * max(1, data.views)
    return TeacherFeatures(key, pictures, sum(len(each.captions) for each in memories))


def _without(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != key}
