"""Examine a run before it starts: its data, its teacher, and a few of its real steps."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from tinyclip_edge.config import RunConfig
from tinyclip_edge.config.sources import TextsConfig
from tinyclip_edge.data import Batch, CachedRows, Count, PairMemory, open_training
from tinyclip_edge.data.checks import SourceCheck, check_source
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.metrics import chance_of
from tinyclip_edge.models import load_clip
from tinyclip_edge.runtime.cpu import physical_memory
from tinyclip_edge.train.builder import prepare
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller
from tinyclip_edge.train.memory import HALF, SavedBytes, factor_bytes, student_bytes
from tinyclip_edge.train.monitoring.events import Observer, Silent
from tinyclip_edge.train.preflight.diagnosis import (
    Diagnosis,
    MemoryCheck,
    StepCheck,
    TeacherCheck,
    judge_source,
)
from tinyclip_edge.train.preflight.domain_check import look_at_source
from tinyclip_edge.train.setup import Setup
from tinyclip_edge.train.stages.state import StageState
from tinyclip_edge.train.stages.student import label
from tinyclip_edge.train.tasks.encoders import picture_bytes, pixel_codec
from tinyclip_edge.train.tasks.mapped_task import MappedTask
from tinyclip_edge.train.tasks.probes import probe_pair
from tinyclip_edge.train.tasks.teacher import Teacher

DRAWS = 3  # batches used to time the loader
SLOW = 60.0  # seconds; for slower steps a single one is timed


def examine(config: RunConfig, observer: Observer | None = None) -> Diagnosis:
    """Measure data, teacher, memory and time of a run without writing anything.

    Raises TinyClipError if data or teacher cannot be opened at all.
    """
    watcher: Observer = Silent() if observer is None else observer
    data, optim = config.data, config.optim
    source = open_training(data)
    teacher = load_clip(config.teacher.model, config.teacher.pretrained)
    watcher.on_message(f"reading a sample of {source.name}")
    check = check_source(
        source,
        pixel_codec(teacher),
        teacher.tokenizer,
        teacher.context_length,
        workers=data.workers,
        seed=config.seed,
    )
    vocabulary = teacher.vocabulary or None
    diagnosis = Diagnosis(
        name=config.name,
        teacher=teacher.name,
        student=None,
        device=None,
        steps=optim.steps,
        batch_size=optim.batch_size,
        distinct=data.batch_distinct,
        streamed=None,
        vocabulary=vocabulary,
        source=check,
    )
    if judge_source(check, vocabulary):
        return diagnosis
    try:
        if isinstance(data.texts, TextsConfig):
            watcher.on_message("looking at the images with the teacher")
            look = look_at_source(
                teacher, source, data.texts, workers=data.workers, seed=config.seed
            )
            diagnosis = replace(diagnosis, domain=look)
            if look.refused:
                return diagnosis
        return _measured(config, diagnosis, *prepare(config, watcher, teacher), watcher)
    except TinyClipError as error:
        return replace(diagnosis, stopped=str(error))
    except torch.OutOfMemoryError:
        return replace(
            diagnosis,
            stopped=(
                f"the device has too little memory for optim.batch_size {optim.batch_size}; "
                "lower it or set run.precision=bf16"
            ),
        )


def _measured(
    config: RunConfig, diagnosis: Diagnosis, setup: Setup, state: StageState, observer: Observer
) -> Diagnosis:
    accuracy = None
    if setup.validation is not None and setup.validation.reference is None:
        observer.on_message("measuring the teacher")
        accuracy = _accuracy(setup)
    observer.on_message("comparing how teacher and student respond to changed inputs")
    probes = probe_pair(setup.teacher_clip, state.student)
    observer.on_message("taking steps")
    counted = _with_counts(diagnosis.source, setup)
    missing = _missing_features(setup, counted)
    step = take_steps(config, setup, state, diagnosis.source)
    steps = setup.stages[-1].end
    ahead = setup.filler is not None and not setup.is_short
    evaluations = 2 + (steps // config.run.eval_every if config.run.eval_every else 0)
    evaluation_seconds = 0.0 if accuracy is None else accuracy.seconds * evaluations
    return replace(
        diagnosis,
        student=label(state.student.name, setup.config),
        device=str(setup.accelerator.device),
        steps=steps,
        streamed=not setup.pairs.memories,
        source=counted,
        views=config.data.views,
        cache_bytes=None if setup.filler is None else _cache_bytes(setup.filler, counted),
        accuracy=accuracy,
        probes=probes,
        step=step,
        memory=_memory(setup, state, step.activations),
        seconds=evaluation_seconds + _training_seconds(step, steps, missing, ahead=ahead),
    )


def _with_counts(source: SourceCheck, setup: Setup) -> SourceCheck:
    """Return the check with the counts of all pairs if they have been loaded."""
    memories = setup.pairs.memories
    if not memories:
        return source
    keys = [key for pairs in memories for key in (*pairs.keys, *pairs.bad.keys)]
    return replace(
        source,
        count=Count(len(keys), exact=True),
        repeated_keys=len(keys) - len(set(keys)),
        loss_lines=tuple(line for pairs in memories for line in pairs.bad.losses.lines()),
    )


def _accuracy(setup: Setup) -> TeacherCheck:
    assert setup.validation is not None
    began = time.perf_counter()
    measured = setup.teacher.measure(setup.validation)
    seconds = time.perf_counter() - began
    images, labels = int(measured.pop("images")), int(measured.pop("labels"))
    return TeacherCheck(images, labels, measured, chance_of(labels), seconds)


def take_steps(
    config: RunConfig, setup: Setup, state: StageState, source: SourceCheck
) -> StepCheck:
    """Train the first batches: one for warm-up and counting activations, then the timed ones."""
    size = config.optim.batch_size
    distinct = config.data.batch_distinct
    batches = setup.pairs.batches(0, size, seed=config.seed, distinct=distinct)
    state.task.train()
    saved = SavedBytes([*state.task.encoder.parameters(), *state.task.beside.parameters()])
    batch = next(batches)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        seconds, finite = _step(state, batch, 0)
    if seconds < SLOW:
        batch = next(batches)
        seconds, is_finite = _step(state, batch, 1)
        finite = finite and is_finite
    cached = None
    if setup.features is not None or setup.filler is not None:
        batch = _with_features(batch, setup.teacher)
        cached, is_finite = _step(state, batch, 2)
        finite = finite and is_finite
    rate = source.samples_per_s
    if isinstance(setup.pairs, PairMemory):
        began = time.perf_counter()
        for number in range(DRAWS):
            setup.pairs.batch(number, size, seed=config.seed, distinct=distinct)
        rate = DRAWS * size / max(time.perf_counter() - began, 1e-9)
    return StepCheck(len(batch.keys), seconds, cached, finite, saved.peak, rate)


def _with_features(batch: Batch, teacher: Teacher) -> Batch:
    """Return the batch of a stream with cached features; pairs in memory have a feature table."""
    if teacher.features is not None:
        return batch
    there = np.ones(len(batch.keys), dtype=bool)
    image, text = teacher.encode_images(batch.pixels), teacher.encode_texts(batch.captions)
    cached = (CachedRows(rows.to("cpu", torch.float16), there) for rows in (image, text))
    return replace(batch, image_features=next(cached), text_features=next(cached))


def _step(state: StageState, batch: Batch, number: int) -> tuple[float, bool]:
    """Return the seconds of one step and whether loss and gradient were finite."""
    began = time.perf_counter()
    terms = state.task.terms(batch)
    norm = state.optimizer_step.step(terms.loss, number, terms.after_backward)
    state.task.after_step()
    if terms.loss.is_cuda:
        torch.cuda.synchronize(terms.loss.device)
    return time.perf_counter() - began, norm is not None


def _memory(setup: Setup, state: StageState, activations: int) -> MemoryCheck:
    pictures = 0
    validation = () if setup.validation is None else (setup.validation.pairs,)
    for pairs in (*setup.pairs.memories, *validation):
        decoded = len(pairs) * picture_bytes(setup.teacher_clip)
        pictures += decoded if pairs.viewed is None else pairs.viewed.nbytes
    features, teacher, task = setup.features, setup.teacher, state.task
    # The rest of a mapping's memory is part of the activations measured in a step.
    factors = factor_bytes(task.mapping) if isinstance(task, MappedTask) else 0
    rows = 0 if features is None else len(features.image) + len(features.text)
    device = setup.accelerator.device
    return MemoryCheck(
        pictures=pictures,
        features=rows * teacher.embedding_dim * HALF,
        teacher=sum(_bytes(member.encoder) for member in teacher.members),
        student=student_bytes(state.student.model, setup.config.optim) + factors,
        activations=activations,
        available=_available(device),
        shared=device.type == "cpu",
    )


def _missing_features(setup: Setup, source: SourceCheck) -> int:
    """Return how many views of pictures, or captions, have no cached features yet."""
    features, filler = setup.features, setup.filler
    if filler is not None:
        parts = filler.parts
        share = len(filler.store.missing(parts)) / len(parts)
        return round(share * source.count.pairs * max(filler.views, _captions(filler, source)))
    if features is None:
        return 0
    return max(len(table) - table.filled for table in (features.image, features.text))


def _cache_bytes(filler: FeatureCacheFiller, source: SourceCheck) -> int:
    return filler.nbytes(source.count.pairs, _captions(filler, source))


def _captions(filler: FeatureCacheFiller, source: SourceCheck) -> float:
    """Return the number of distinct captions, and of texts without a picture, per pair."""
    texts = sum(len(each.texts) for each in filler.sources if each.texts is not None)
    if all(each.texts is not None for each in filler.sources):
        return texts / max(1, source.count.pairs)
    captions = source.captions.distinct / max(1, source.sampled)
    return captions + texts / max(1, source.count.pairs)


def _training_seconds(step: StepCheck, steps: int, missing: int, *, ahead: bool) -> float:
    """Return the time of all steps; the teacher runs until all of its features are cached.

    ``ahead``: they are cached before the first step.
    """
    if step.cached_seconds is None:
        return steps * step.seconds
    live = -(-missing // step.pairs)
    live = live if ahead else min(steps, live)
    return steps * step.cached_seconds + live * (step.seconds - step.cached_seconds)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _available(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return physical_memory()
