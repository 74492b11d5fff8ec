"""Measure several models on several sets, one model in memory at a time."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from tinyclip_edge.errors import DataError, ModelError, TinyClipError, TinyClipWarning, did_you_mean
from tinyclip_edge.evaluation.classify import zero_shot_of_features
from tinyclip_edge.evaluation.eval_set import EvalSet
from tinyclip_edge.evaluation.open import check_openable, names_of, open_embedder
from tinyclip_edge.evaluation.ranking import hits_at
from tinyclip_edge.evaluation.report import (
    RETRIEVAL,
    ZERO_SHOT,
    EvalRow,
    require_classes,
    shared_captions,
)
from tinyclip_edge.evaluation.resampling import PictureHits, Resampling
from tinyclip_edge.evaluation.retrieve import retrieval_hits
from tinyclip_edge.evaluation.sets import check_set, evaluation_set
from tinyclip_edge.evaluation.standings import (
    DEFAULT,
    RankedSet,
    ScoredModel,
    Standings,
    standings_of,
)
from tinyclip_edge.runtime.prompts import check_prompts, class_features
from tinyclip_edge.runtime.protocol import Embedder

_log = logging.getLogger(__name__)

AUTO = "auto"
TASKS = (AUTO, RETRIEVAL, ZERO_SHOT)


def rank_models(
    models: Sequence[str],
    data: Sequence[str],
    *,
    task: str = AUTO,
    templates: Sequence[str] = ("{}",),
    limit: int | None = None,
    resampling: Resampling = DEFAULT,
    threads: int | None = None,
    device: str = "cpu",
) -> Standings:
    """Measure every MODEL on every set and rank them; see ``Standings``.

    ``task`` auto is zero-shot for sets with classes, else retrieval. A model that cannot be opened
    or measured is left out, with a warning. Raises TinyClipError for names that do not exist,
    before the first model is opened, and if no model is left.
    """
    if task not in TASKS:
        raise DataError(f"unknown task {task!r}{did_you_mean(task, TASKS)}")
    if not models or not data:
        raise DataError(f"nothing to compare: give at least one {'set' if models else 'model'}")
    for model in models:
        check_openable(model)
    for name in data:
        check_set(name)
    sets = [evaluation_set(name, limit=limit) for name in dict.fromkeys(data)]
    tasks = [_task(each, task) for each in sets]
    measured, left_out, notes = [], [], dict.fromkeys(_notes(sets, tasks))
    for model, name in names_of(models).items():
        try:
            embedder = open_embedder(model, threads=threads, device=device)
            pairs = [
                _measured(embedder, each, chosen, templates, notes)
                for each, chosen in zip(sets, tasks, strict=True)
            ]
        except TinyClipError as error:
            left_out.append(f"{name}: {error}")
            warnings.warn(f"left out: {left_out[-1]}", TinyClipWarning, stacklevel=2)
            continue
        rows, hits = zip(*pairs, strict=True)
        measured.append(ScoredModel(name, model, embedder.spec, rows, hits))
        _log.info("%s: measured, %s of %s", name, len(measured) + len(left_out), len(set(models)))
    if not measured:
        raise ModelError(f"no model could be measured; {left_out[0]}")
    ranked_sets = [
        RankedSet(each.name, chosen, len(each), int(hits.queries.sum()))
        for each, chosen, hits in zip(sets, tasks, measured[0].hits, strict=True)
    ]
    return standings_of(
        measured, ranked_sets, resampling=resampling, left_out=left_out, notes=[*notes]
    )


def _task(evaluation_data: EvalSet, task: str) -> str:
    """Return the task for a set. Raises DataError for zero-shot with one class."""
    chosen = task if task != AUTO else ZERO_SHOT if evaluation_data.classes else RETRIEVAL
    if chosen == ZERO_SHOT:
        require_classes(evaluation_data)
    return chosen


def _notes(sets: Sequence[EvalSet], tasks: Sequence[str]) -> Iterator[str]:
    for each, task in zip(sets, tasks, strict=True):
        notes = [*each.notes, *(shared_captions(each) if task == RETRIEVAL else ())]
        yield from (f"{each.name}: {note}" for note in notes)


def _measured(
    embedder: Embedder,
    evaluation_data: EvalSet,
    task: str,
    templates: Sequence[str],
    notes: dict[str, None],
) -> tuple[EvalRow, PictureHits]:
    """Return metrics and first hits on a set; further notes go to ``notes``."""
    image = embedder.encode_image(evaluation_data.images)
    if task == ZERO_SHOT:
        names, targets = evaluation_data.classnames, np.array(evaluation_data.targets)
        prompt_notes = check_prompts(embedder, names, templates)
        notes.update(dict.fromkeys(f"{evaluation_data.name}: {each}" for each in prompt_notes))
        classes = class_features(embedder, names, templates)
        row = EvalRow("all", zero_shot=zero_shot_of_features(image, targets.tolist(), classes))
        hits = hits_at(image @ classes.T, targets, 1)
        return row, PictureHits(hits[None], np.ones((1, len(hits))))
    texts, owners = evaluation_data.queries()
    ranks = retrieval_hits(image, class_features(embedder, texts, templates), owners)
    captions = np.bincount(ranks.owners)
    sums = np.stack([np.bincount(ranks.owners, weights=ranks.t2i[1]), ranks.i2t[1]])
    queries = np.stack([captions, np.ones_like(captions)]).astype(float)
    return EvalRow("all", ranks.figures()), PictureHits(sums, queries)
