"""One model on one evaluation set, with its subsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, did_you_mean
from tinyclip_edge.evaluation.classify import ZeroShot, zero_shot_of_features
from tinyclip_edge.evaluation.retrieve import (
    HundredWay,
    Retrieval,
    hundred_way,
    retrieval_of_features,
)
from tinyclip_edge.evaluation.sets import EvalSet, evaluation_set
from tinyclip_edge.evaluation.tables import percent, report_table, with_error
from tinyclip_edge.runtime.prompts import check_prompts, class_features
from tinyclip_edge.runtime.protocol import Embedder, EmbedderSpec, Features

if TYPE_CHECKING:
    from rich.table import Table

Ints = npt.NDArray[np.int64]
RETRIEVAL, ZERO_SHOT = "retrieval", "zero-shot"


@dataclass(frozen=True, slots=True)
class EvalRow:
    """What was measured on a set or subset; ``zero_shot`` or the other two, by task."""

    name: str
    retrieval: Retrieval | None = None
    hundred_way: HundredWay | None = None
    zero_shot: ZeroShot | None = None


@dataclass(frozen=True, slots=True)
class EvalReport:
    """The whole set first, then its subsets and companions."""

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
    """Measure retrieval or zero-shot classification; candidates of a subset are its own.

    ``companions=False`` leaves out the sets that stand beside the named one.

    Raise DataError for an unknown task or a set that cannot be read.
    """
    if task not in (RETRIEVAL, ZERO_SHOT):
        raise DataError(f"unknown task {task!r}{did_you_mean(task, (RETRIEVAL, ZERO_SHOT))}")
    found = evaluation_set(data, limit=limit)
    notes = found.notes
    if task == ZERO_SHOT:
        notes = (*notes, *check_prompts(embedder, found.classnames, templates))
    measure = _retrieval_rows if task == RETRIEVAL else _zero_shot_rows
    rows = list(measure(embedder, found, templates))
    for name, companion in (found.companions if companions else {}).items():
        whole, *_ = measure(embedder, companion, templates)
        rows.append(EvalRow(name, whole.retrieval, whole.hundred_way, whole.zero_shot))
    return EvalReport(
        embedder.name, embedder.spec, task, data, tuple(templates), tuple(rows), notes
    )


def retrieval_row(name: str, image: Features, text: Features, owners: Ints) -> EvalRow:
    """Measure features of images and of their captions; among 100 the first of each competes."""
    first = np.unique(owners, return_index=True)[1]
    return EvalRow(
        name, retrieval_of_features(image, text, owners.tolist()), hundred_way(image, text[first])
    )


def _retrieval_rows(
    embedder: Embedder, found: EvalSet, templates: Sequence[str]
) -> Iterator[EvalRow]:
    image = embedder.encode_image(found.images)
    texts, owners = found.queries()
    text, of = class_features(embedder, texts, templates), np.array(owners)
    yield retrieval_row("all", image, text, of)
    for name, places in found.subsets.items():
        own = np.isin(of, places)
        numbers = np.searchsorted(np.sort(places), of[own])
        yield retrieval_row(name, image[np.sort(places)], text[own], numbers)


def _zero_shot_rows(
    embedder: Embedder, found: EvalSet, templates: Sequence[str]
) -> Iterator[EvalRow]:
    if len(found.classnames) < 2:
        raise DataError(
            f"{found.name} has one class, '{found.classnames[0]}'; zero-shot needs two or more"
        )
    image = embedder.encode_image(found.images)
    classes = class_features(embedder, found.classnames, templates)
    targets = np.array(found.targets)
    yield EvalRow("all", zero_shot=zero_shot_of_features(image, targets.tolist(), classes))
    for name, places in found.subsets.items():
        own, wanted = np.unique(targets[list(places)], return_inverse=True)
        row = zero_shot_of_features(image[list(places)], wanted.tolist(), classes[own])
        yield EvalRow(name, zero_shot=row)


def _rich_table(report: EvalReport) -> Table:
    """Return one line a set or subset."""
    from rich.markup import escape

    title = f"{report.model} · {report.spec.runtime} {report.spec.precision} · {report.data}"
    caption = ["± standard error", *report.notes]
    if report.task == RETRIEVAL:
        first = ("text→image\n@1", "@5", "@10")
        second = ("image→text\n@1", "@5", "@10")
        columns = ["pairs", *first, *second, "of 100"]
        table = report_table(title, columns, caption)
        for row in report.rows:
            table.add_row(escape(row.name), *_retrieval_cells(row))
        return table
    table = report_table(title, ["images", "classes", "top-1", "top-5"], caption)
    for row in report.rows:
        found = row.zero_shot
        assert found is not None
        table.add_row(
            escape(row.name),
            str(found.n),
            str(found.classes),
            with_error(found.top1, found.stderr),
            with_error(found.top5, found.top5_stderr),
        )
    return table


def _retrieval_cells(row: EvalRow) -> list[str]:
    found, among = row.retrieval, row.hundred_way
    assert found is not None and among is not None
    return [
        str(found.n),
        with_error(found.t2i[1], found.t2i_stderr[1]),
        percent(found.t2i[5]),
        percent(found.t2i[10]),
        with_error(found.i2t[1], found.i2t_stderr[1]),
        percent(found.i2t[5]),
        percent(found.i2t[10]),
        percent(among.top1) if among.ways == 100 else "–",
    ]
