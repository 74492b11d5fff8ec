"""Results for one picture: probabilities of all models as bars, agreement, latency."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from tinyclip_demo.classify import ClassifyResult
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.view.parts import (
    RUNTIMES,
    count,
    hint,
    hue,
    megabytes,
    milliseconds,
    percent,
    unknown_picture,
)

MAX_ROWS = 10


def classification(results: Sequence[ClassifyResult]) -> str:
    """Return a table with a row per label, a column per model, and times below."""
    visible, hidden_rows = _rows(results)
    heads = "".join(_column_head(result, index) for index, result in enumerate(results))
    body = "".join(_label_row(results, row) for row in visible)
    if hidden_rows:
        highest_hidden = max(result.probabilities[row] for result in results for row in hidden_rows)
        bound = percent(max(highest_hidden, 0.001))
        body += (
            f'<tr class="tc-rest"><th colspan="{len(results) + 1}">'
            f"{count(len(hidden_rows), 'more label')}, none above {bound}"
            "</th></tr>"
        )
    return (
        f'<section class="tc-result">{_unfamiliar(results)}{verdict(results)}{_notes(results)}'
        '<div class="tc-wide" tabindex="0" role="region" aria-label="Probabilities by model">'
        f'<table class="tc-bars" style="--n:{len(results)}">'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody>"
        f"<tfoot>{_latency_rows(results)}</tfoot></table></div></section>"
    )


def verdict(results: Sequence[ClassifyResult]) -> str:
    """Return one line on whether the models agree."""
    first = results[0]
    if len(results) == 1:
        return f'<p class="tc-verdict" role="status"><b>{escape(first.answer)}</b></p>'
    if all(result.agrees for result in results):
        models = "Both" if len(results) == 2 else f"All {len(results)}"
        # Agreement on an unfamiliar picture is not a success.
        strange = any(result.familiar is False or result.unknown for result in results)
        kind = "strange" if strange else "agree"
        return (
            f'<p class="tc-verdict {kind}" role="status"><i>✓</i><span>{models} models '
            f"say <b>{escape(first.answer)}</b></span></p>"
        )
    models_by_answer: dict[str, list[str]] = {}
    for result in results:
        models_by_answer.setdefault(result.answer, []).append(escape(result.model))
    statement = "; ".join(
        f"{', '.join(models)} {'say' if len(models) > 1 else 'says'} <b>{escape(answer)}</b>"
        for answer, models in models_by_answer.items()
    )
    return f'<p class="tc-verdict differ" role="status"><i>≠</i><span>{statement}</span></p>'


def _unfamiliar(results: Sequence[ClassifyResult]) -> str:
    return unknown_picture([result.model for result in results if result.familiar is False])


def _notes(results: Sequence[ClassifyResult]) -> str:
    notes = [f"{result.model}: {note}" for result in results for note in result.notes]
    notes += [
        f"{result.model}: unknown, because no label reaches {100 * result.threshold:.1f} %, "
        f"the threshold calibrated for these labels; the nearest is {result.best}"
        for result in results
        if result.threshold is not None and result.unknown
    ]
    return "".join(hint(note) for note in notes)


def example_pictures(gallery: Gallery, indices: Sequence[int]) -> str:
    """Return a row of thumbnails as buttons; each carries its index in the list."""
    buttons = "".join(
        f'<button type="button" data-at="{i}" title="{escape(gallery.captions[index])}" '
        f'aria-label="Example: {escape(gallery.captions[index])}">'
        f'<img src="{gallery.thumbnail(index)}" alt=""></button>'
        for i, index in enumerate(indices)
    )
    return f'<div class="tc-examples" role="group" aria-label="Examples">{buttons}</div>'


def _rows(results: Sequence[ClassifyResult]) -> tuple[list[int], list[int]]:
    """Return the rows of probable labels in the first model's order, then the remaining rows."""
    table = np.array([result.probabilities for result in results])
    probable = set(np.argsort(-table.max(axis=0), kind="stable")[:MAX_ROWS].tolist())
    visible = probable | {result.labels.index(result.best) for result in results}
    order = np.argsort(-table[0], kind="stable").tolist()
    return [row for row in order if row in visible], [row for row in order if row not in visible]


def _column_head(result: ClassifyResult, index: int) -> str:
    mark = ""
    if index:
        mark = '<em class="ok">agrees</em>' if result.agrees else '<em class="no">differs</em>'
    if result.unknown:
        mark += " · " * bool(mark) + '<em class="no">unknown</em>'
    if result.familiar is False:
        mark += " · " * bool(mark) + '<em class="no">unlike its training</em>'
    spec, facts = result.spec, ""
    if spec:
        runtime = RUNTIMES.get(spec.runtime, spec.runtime)
        facts = f"{runtime} {spec.precision} · {megabytes(spec.bytes_on_disk)}"
    return (
        f'<th scope="col" {hue(result.number)}><span class="tc-dot">{escape(result.model)}</span>'
        f"<small>{escape(facts)}</small>{mark}</th>"
    )


def _label_row(results: Sequence[ClassifyResult], row: int) -> str:
    reference = results[0].probabilities[row]
    cells = []
    for index, result in enumerate(results):
        share = result.probabilities[row]
        reference_mark = (
            f'<b style="left:{reference:.2%}"></b>' if index and reference > 0.01 else ""
        )
        top = ' class="top"' if result.labels[row] == result.best else ""
        cells.append(
            f'<td{top} {hue(result.number)} data-model="{escape(result.model)}">'
            f'<i class="tc-bar"><i style="width:{share:.2%}"></i>{reference_mark}</i>'
            f"<span>{percent(share)}</span></td>"
        )
    return f'<tr><th scope="row">{escape(results[0].labels[row])}</th>{"".join(cells)}</tr>'


def _latency_rows(results: Sequence[ClassifyResult]) -> str:
    labels = count(len(results[0].labels), "label")
    rows = [
        _latency_row(results, "Preprocess", [r.preprocess_ms for r in results], "within encode"),
        _latency_row(results, "Encode image", [r.image_ms for r in results]),
        _latency_row(results, f"Encode {labels}", [r.text_ms for r in results], "cached"),
        _latency_row(results, "Compare", [r.compare_ms for r in results]),
    ]
    return "".join(rows)


def _latency_row(
    results: Sequence[ClassifyResult],
    name: str,
    values: Sequence[float | None],
    missing: str = "",
) -> str:
    cells = "".join(
        f"<td {hue(result.number)}>{missing if value is None else milliseconds(value)}</td>"
        for result, value in zip(results, values, strict=True)
    )
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
