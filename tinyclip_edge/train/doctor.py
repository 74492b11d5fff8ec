"""Look at a run before it is started: its data, its teacher, and a few of its real steps."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import Batch, Count, PairMemory, open_source
from tinyclip_edge.data.checks import SourceCheck, check_source
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.train.diagnosis import (
    Diagnosis,
    MemoryCheck,
    StepCheck,
    TeacherCheck,
    chance_of,
    judge_source,
)
from tinyclip_edge.train.encode import pixel_codec
from tinyclip_edge.train.observe import Observer, Silent
from tinyclip_edge.train.setup import Setup, picture_bytes, prepare
from tinyclip_edge.train.workshop import Work

FLOAT = 4  # bytes
HALF = 2
TRAINED = 4  # floats a trained parameter: itself, its gradient, AdamW's two moments
DRAWS = 3  # batches drawn to time a loader
SLOW = 60.0  # seconds of a step from which one is enough


def examine(config: RunConfig, observer: Observer | None = None) -> Diagnosis:
    """Measure what a run would meet; nothing is written.

    Raises TinyClipError when data or teacher cannot be opened at all.
    """
    watcher: Observer = Silent() if observer is None else observer
    data, optim = config.data, config.optim
    source = open_source(data.train, allow_pipes=data.allow_pipes)
    teacher = load_clip(config.teacher.model, config.teacher.pretrained)
    watcher.on_message(f"looking at a sample of {source.name}")
    check = check_source(
        source,
        pixel_codec(teacher),
        teacher.tokenizer,
        teacher.context_length,
        workers=data.workers,
        seed=config.seed,
    )
    table = getattr(teacher.model, "token_embedding", None)
    vocabulary = table.num_embeddings if isinstance(table, nn.Embedding) else None
    found = Diagnosis(
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
        return found
    try:
        return _measured(config, found, *prepare(config, watcher, teacher), watcher)
    except TinyClipError as error:
        return replace(found, stopped=str(error))
    except torch.OutOfMemoryError:
        return replace(
            found,
            stopped=f"the device has no memory for optim.batch_size {optim.batch_size}; lower it "
            "or set run.precision=bf16",
        )


def _measured(
    config: RunConfig, found: Diagnosis, setup: Setup, work: Work, observer: Observer
) -> Diagnosis:
    accuracy = None
    if setup.validation is not None:
        observer.on_message("measuring the teacher")
        accuracy = _accuracy(setup)
    observer.on_message("taking steps")
    missing = _missing_features(setup)
    step = take_steps(config, setup, work, found.source)
    steps = setup.stages[-1].end
    evaluations = 2 + (steps // config.run.eval_every if config.run.eval_every else 0)
    looking = 0.0 if accuracy is None else accuracy.seconds * evaluations
    return replace(
        found,
        student=work.student.name,
        device=str(setup.accelerator.device),
        steps=steps,
        streamed=not isinstance(setup.pairs, PairMemory),
        source=_counted(found.source, setup),
        accuracy=accuracy,
        step=step,
        memory=_memory(setup, work, step.activations),
        seconds=looking + _training_seconds(step, steps, missing),
    )


def _counted(source: SourceCheck, setup: Setup) -> SourceCheck:
    """Return the check with the number of pairs, now that they may all have been read."""
    if not isinstance(setup.pairs, PairMemory):
        return source
    return replace(source, count=Count(len(setup.pairs) + len(setup.pairs.bad.keys), exact=True))


def _accuracy(setup: Setup) -> TeacherCheck:
    assert setup.validation is not None
    began = time.perf_counter()
    measured = setup.validation.measure(setup.workshop.asked.encoder, setup.teacher)
    seconds = time.perf_counter() - began
    images, labels = int(measured.pop("images")), int(measured.pop("labels"))
    return TeacherCheck(images, labels, measured, chance_of(labels), seconds)


def take_steps(config: RunConfig, setup: Setup, work: Work, source: SourceCheck) -> StepCheck:
    """Train the first batches: one to warm up and to count activations, then the timed ones."""
    size = config.optim.batch_size
    distinct = config.data.batch_distinct
    batches = setup.pairs.batches(0, size, seed=config.seed, distinct=distinct)
    work.task.train()
    saved = SavedBytes([*work.task.encoder.parameters(), *work.task.beside.parameters()])
    batch = next(batches)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        seconds, finite = _step(work, batch, 0)
    if seconds < SLOW:
        batch = next(batches)
        seconds, fine = _step(work, batch, 1)
        finite = finite and fine
    cached = None
    if setup.features is not None:
        cached, fine = _step(work, batch, 2)
        finite = finite and fine
    rate = source.samples_per_s
    if isinstance(setup.pairs, PairMemory):
        began = time.perf_counter()
        for number in range(DRAWS):
            setup.pairs.batch(number, size, seed=config.seed, distinct=distinct)
        rate = DRAWS * size / max(time.perf_counter() - began, 1e-9)
    return StepCheck(len(batch.keys), seconds, cached, finite, saved.total, rate)


class SavedBytes:
    """Counts what autograd keeps for a backward pass, parameters apart, each storage once."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor as it is saved."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        """Hand it back."""
        return tensor


def _step(work: Work, batch: Batch, number: int) -> tuple[float, bool]:
    """Return the seconds of one step and whether loss and gradient were finite."""
    began = time.perf_counter()
    terms = work.task.terms(batch)
    norm = work.updater.step(terms.loss, number)
    work.task.after_step()
    if terms.loss.is_cuda:
        torch.cuda.synchronize(terms.loss.device)
    return time.perf_counter() - began, norm is not None


def _memory(setup: Setup, work: Work, activations: int) -> MemoryCheck:
    pictures = 0
    for pairs in (setup.pairs, None if setup.validation is None else setup.validation.pairs):
        if isinstance(pairs, PairMemory):
            pictures += len(pairs) * picture_bytes(setup.teacher)
    features = setup.features
    rows = 0 if features is None else len(features.image) + len(features.text)
    device = setup.accelerator.device
    return MemoryCheck(
        pictures=pictures,
        features=rows * setup.teacher.embedding_dim * HALF,
        teacher=_parameters(setup.teacher) * FLOAT,
        student=_parameters(work.student) * FLOAT * TRAINED,
        activations=activations,
        available=_available(device),
        shared=device.type == "cpu",
    )


def _missing_features(setup: Setup) -> int:
    """Return how many pictures, or captions, the teacher has still to see."""
    features = setup.features
    if features is None:
        return 0
    return max(len(table) - table.filled for table in (features.image, features.text))


def _training_seconds(step: StepCheck, steps: int, missing: int) -> float:
    """Return the time of all steps: the teacher computes until its features are all there."""
    if step.cached_seconds is None:
        return steps * step.seconds
    live = min(steps, -(-missing // step.pairs))
    return live * step.seconds + (steps - live) * step.cached_seconds


def _parameters(clip: LoadedClip) -> int:
    return sum(parameter.numel() for parameter in clip.model.parameters())


def _available(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if not all(name in getattr(os, "sysconf_names", ()) for name in names):
        return None
    pages, size = (os.sysconf(name) for name in names)
    return pages * size
