"""Evaluate one model on an evaluation set and its subsets."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, did_you_mean
from tinyclip_edge.evaluation.classify import ZeroShot, zero_shot_of_features
from tinyclip_edge.evaluation.eval_set import EvalSet
from tinyclip_edge.evaluation.retrieve import (
    HundredWay,
    Retrieval,
    hundred_way,
    retrieval_of_features,
)
from tinyclip_edge.evaluation.sets import evaluation_set
from tinyclip_edge.evaluation.tables import percent, with_error
from tinyclip_edge.notebook import NotebookReport, report_table
from tinyclip_edge.runtime.prompts import check_prompts, class_features
from tinyclip_edge.runtime.protocol import Embedder, EmbedderSpec, Features
from tinyclip_edge.units import duration

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
RETRIEVAL, ZERO_SHOT = "retrieval", "zero-shot"
MANY = 0.1  # share of captions with several images above which there is a note


@dataclass(frozen=True, slots=True)
class EvalRow:
    """Metrics on a set or subset: ``zero_shot``, or the other two for retrieval."""

    name: str
    retrieval: Retrieval | None = None
    hundred_way: HundredWay | None = None
    zero_shot: ZeroShot | None = None


@dataclass(frozen=True, slots=True)
class EvalReport(NotebookReport):
    """Metrics of one model; ``rows`` has the whole set first, then subsets and companions."""

    model: str
    spec: EmbedderSpec
    task: str
    data: str
    templates: tuple[str, ...]
    rows: tuple[EvalRow, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        content = asdict(self)
        content["rows"] = [
            {key: value for key, value in row.items() if value is not None}
            for row in content["rows"]
        ]
        return content

    def table(self) -> Table:
        """Return a rich table."""
        return _rich_table(self)


def evaluate_model(
    embedder: Embedder,
    *,
    task: str = RETRIEVAL,
    data: str = "starter:test_style",
    templates: Sequence[str] = ("{}",),
    limit: int | None = None,
    companions: bool = True,
) -> EvalReport:
    """Measure retrieval or zero-shot classification; a subset's candidates are only its own.

    ``companions=False`` skips the companion sets. Raises DataError for an unknown task or a set
    that cannot be read.
    """
    if task not in (RETRIEVAL, ZERO_SHOT):
        raise DataError(f"unknown task {task!r}{did_you_mean(task, (RETRIEVAL, ZERO_SHOT))}")
    started = time.perf_counter()
    evaluation_data = evaluation_set(data, limit=limit)
    took, count = duration(time.perf_counter() - started), len(evaluation_data.images)
    _log.info("%s: %s pictures opened in %s", data, count, took)
    notes = evaluation_data.notes
    if task == RETRIEVAL:
        notes = (*notes, *shared_captions(evaluation_data))
    if task == ZERO_SHOT:
        notes = (*notes, *check_prompts(embedder, evaluation_data.classnames, templates))
    measure = _retrieval_rows if task == RETRIEVAL else _zero_shot_rows
    rows = list(measure(embedder, evaluation_data, templates))
    for name, companion in (evaluation_data.companions if companions else {}).items():
        row, *_ = measure(embedder, companion, templates)
        rows.append(EvalRow(name, row.retrieval, row.hundred_way, row.zero_shot))
    _log.info("%s measured in %s", embedder.name, duration(time.perf_counter() - started))
    return EvalReport(
        embedder.name, embedder.spec, task, data, tuple(templates), tuple(rows), notes
    )


def shared_captions(evaluation_data: EvalSet) -> list[str]:
    """Return a note if many captions are shared by several images, as in labelled sets."""
    texts, _ = evaluation_data.queries()
    times = Counter(texts)
    shared = sum(count for count in times.values() if count > 1) / len(texts)
    if shared <= MANY:
        return []
    return [
        f"{shared:.0%} of the captions belong to several images, but only one image counts as "
        "correct for each; use --task zero-shot for class labels"
    ]


def require_classes(evaluation_data: EvalSet) -> None:
    """Raise DataError for a set with a single class."""
    if len(evaluation_data.classnames) < 2:
        raise DataError(
            f"{evaluation_data.name} has one class, '{evaluation_data.classnames[0]}'; "
            "zero-shot needs two or more"
        )


def retrieval_row(name: str, image: Features, text: Features, owners: Ints) -> EvalRow:
    """Measure retrieval; the 100-way task uses the first caption of each image."""
    first = np.unique(owners, return_index=True)[1]
    return EvalRow(
        name, retrieval_of_features(image, text, owners.tolist()), hundred_way(image, text[first])
    )


def _retrieval_rows(
    embedder: Embedder, evaluation_data: EvalSet, templates: Sequence[str]
) -> Iterator[EvalRow]:
    image = embedder.encode_image(evaluation_data.images)
    texts, owners = evaluation_data.queries()
    text, image_indices = class_features(embedder, texts, templates), np.array(owners)
    yield retrieval_row("all", image, text, image_indices)
    for name, positions in evaluation_data.subsets.items():
        in_subset = np.isin(image_indices, positions)
        subset_indices = np.searchsorted(np.sort(positions), image_indices[in_subset])
        yield retrieval_row(name, image[np.sort(positions)], text[in_subset], subset_indices)


def _zero_shot_rows(
    embedder: Embedder, evaluation_data: EvalSet, templates: Sequence[str]
) -> Iterator[EvalRow]:
    require_classes(evaluation_data)
    image = embedder.encode_image(evaluation_data.images)
    classes = class_features(embedder, evaluation_data.classnames, templates)
    targets = np.array(evaluation_data.targets)
    yield EvalRow("all", zero_shot=zero_shot_of_features(image, targets.tolist(), classes))
    for name, positions in evaluation_data.subsets.items():
        subset_classes, subset_targets = np.unique(targets[list(positions)], return_inverse=True)
        row = zero_shot_of_features(
            image[list(positions)], subset_targets.tolist(), classes[subset_classes]
        )
        yield EvalRow(name, zero_shot=row)


def _rich_table(report: EvalReport) -> Table:
    """Return one row per set or subset."""
    title = f"{report.model} · {report.spec.runtime} {report.spec.precision} · {report.data}"
    caption = ["± standard error", *report.notes]
    if report.task == RETRIEVAL:
        first = ("text→image\n@1", "@5", "@10")
        second = ("image→text\n@1", "@5", "@10")
        columns = ["pairs", *first, *second, "of 100"]
        table = report_table(title, columns, caption)
        for row in report.rows:
            table.add_row(row.name, *_retrieval_cells(row))
        return table
    table = report_table(title, ["images", "classes", "top-1", "top-5"], caption)
    for row in report.rows:
        zero_shot = row.zero_shot
        assert zero_shot is not None
        table.add_row(
            row.name,
            str(zero_shot.n),
            str(zero_shot.classes),
            with_error(zero_shot.top1, zero_shot.stderr),
            with_error(zero_shot.top5, zero_shot.top5_stderr),
        )
    return table


def _retrieval_cells(row: EvalRow) -> list[str | Text]:
    retrieval, hundred_way = row.retrieval, row.hundred_way
    assert retrieval is not None and hundred_way is not None
    return [
        str(retrieval.n),
        with_error(retrieval.t2i[1], retrieval.t2i_stderr[1]),
        percent(retrieval.t2i[5]),
        percent(retrieval.t2i[10]),
        with_error(retrieval.i2t[1], retrieval.i2t_stderr[1]),
        percent(retrieval.i2t[5]),
        percent(retrieval.i2t[10]),
        percent(hundred_way.top1) if hundred_way.ways == 100 else "–",
    ]
