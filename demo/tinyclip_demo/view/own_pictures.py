"""Whether models agree on a visitor's pictures: shares, confusions, pictures to look at."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.own_pictures import AnswerComparison, ModelAnswers
from tinyclip_demo.view.pairs import answer_cell, apart_note, pair_row, pair_table
from tinyclip_demo.view.parts import count, figure_table, hint, hue, named, percent
from tinyclip_edge.report.words import NONE

MAX_PAIRS = 24
MAX_PICTURES = 24  # per strip
MAX_CONFUSED = 9  # labels of a confusion table; the others share a row and a column
OTHERS = "other labels"
FIGURES = ("Model", "Same label", "Among its 5", "KL")
UNKNOWN = "Unknown"


def comparison(result: AnswerComparison, gallery: Gallery) -> str:
    """Return the whole comparison: verdict, shares, confusions and pictures."""
    first, *students = result.answers
    differing = result.differing
    return (
        f'<section class="tc-result">{_verdict(result, len(differing))}{_notes(result)}'
        f"{_shares(first, students)}"
        f"{''.join(_confusion(result, student) for student in students)}"
        f"{_strips(result, gallery)}{_differing(result, differing, gallery)}</section>"
    )


def confused_labels(counts: npt.NDArray[np.int64], most: int = MAX_CONFUSED) -> list[int]:
    """Return the labels of ``[C, C]`` with most confusions, then most pictures, in label order."""
    both = counts.sum(axis=0) + counts.sum(axis=1)
    wrong = both - 2 * np.diagonal(counts)
    order = [int(label) for label in np.lexsort((-both, -wrong)) if both[label]]
    return sorted(order if len(order) <= most + 1 else order[:most])


def folded(counts: npt.NDArray[np.int64], labels: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the counts ``[L, L]`` of some labels; a last row and column sums any others."""
    place = np.full(len(counts), len(labels))
    place[list(labels)] = np.arange(len(labels))
    small = np.zeros((len(labels) + 1, len(labels) + 1), dtype=np.int64)
    rows, columns = np.nonzero(counts)
    np.add.at(small, (place[rows], place[columns]), counts[rows, columns])
    others = small[-1].any() or small[:, -1].any()
    return small if others else small[:-1, :-1]


def _verdict(result: AnswerComparison, differing: int) -> str:
    same = len(result) - differing
    models = "Both" if len(result.answers) == 2 else f"All {len(result.answers)}"
    return (
        f'<p class="tc-verdict" role="status"><span>{models} models give the same label to '
        f"<b>{same:,}</b> of {count(len(result), 'picture')} (<b>{same / len(result):.1%}</b>), "
        f"choosing among {count(len(result.labels), 'label')}</span></p>"
    )


def _notes(result: AnswerComparison) -> str:
    lines = list(result.notes)
    if result.broken:
        lines.append(named(result.broken, "picture", " cannot be decoded"))
    return "".join(hint(line) for line in lines)


def _shares(first: ModelAnswers, students: Sequence[ModelAnswers]) -> str:
    calibrated = any(student.unknown is not None for student in students)
    heads = [*FIGURES, *([UNKNOWN] * calibrated)]
    rows = [_line(student, calibrated=calibrated) for student in students]
    name = escape(first.name)
    unknown = "<span>Unknown: pictures below the threshold calibrated for these labels</span>"
    return (
        f"{figure_table('Agreement', heads, rows)}"
        f'<p class="tc-legend"><span>Same label: as {name}</span><span>Among its 5: the label of '
        f"{name} is one of the five most probable</span><span>KL: divergence of the probabilities, "
        f"in nats (0: equal)</span>{unknown * calibrated}</p>"
    )


def _line(student: ModelAnswers, *, calibrated: bool) -> tuple[str, str, list[str]]:
    agreed = student.agreement
    cells = [f"{agreed.top1:.1%}", f"{agreed.top5:.1%}", f"{agreed.kl:.2f}"]
    if calibrated:
        cells.append(NONE if student.unknown is None else f"{int(student.unknown.sum()):,}")
    return hue(student.number), f'<span class="tc-dot">{escape(student.name)}</span>', cells


def _confusion(result: AnswerComparison, student: ModelAnswers) -> str:
    counts = result.confusion(student)
    labels = confused_labels(counts)
    table = folded(counts, labels)
    names = [result.labels[label] for label in labels]
    names += [OTHERS] * (len(table) - len(names))
    heads = "".join(
        f'<th scope="col" title="{escape(name)}"><span aria-label="{escape(name)}">{place}</span>'
        "</th>"
        for place, name in enumerate(names, 1)
    )
    rows = "".join(
        f'<tr><th scope="row"><b>{place}</b><span>{escape(name)}</span></th>'
        + "".join(
            _cell(int(value), value / max(1, row.sum()), _kind(place - 1, column, len(labels)))
            for column, value in enumerate(row)
        )
        + "</tr>"
        for place, (name, row) in enumerate(zip(names, table, strict=True), 1)
    )
    first = escape(result.answers[0].name)
    return (
        f'<section class="tc-part" {hue(student.number)}><h3>Labels of {first} in rows, of '
        f'<span class="tc-dot">{escape(student.name)}</span> in columns</h3>'
        f'<table class="tc-confusion"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _kind(row: int, column: int, labels: int) -> str:
    """Return the kind of a cell: agreement, confusion, or both for that of all other labels."""
    if row == column:
        return "same" if row < labels else "mixed"
    return "apart"


def _cell(value: int, share: float, kind: str) -> str:
    if not value:
        return "<td></td>"
    number = f"{value:,}" if value < 1000 else f"{value / 1000:.0f}k"
    return f'<td class="{kind}" style="--s:{share:.2f}" title="{value:,}">{number}</td>'


def _differing(result: AnswerComparison, differing: Sequence[int], gallery: Gallery) -> str:
    if not differing:
        return ""
    models = [(answers.number, answers.name) for answers in result.answers]
    body = "".join(_pair(result, place, gallery) for place in differing[:MAX_PAIRS])
    more = len(differing) - MAX_PAIRS
    rest = f"<span>{more:,} more differ less</span>" if more > 0 else ""
    return (
        f'<section class="tc-part"><h3>Pictures on which they differ: {len(differing):,}</h3>'
        f"{pair_table('Picture', models, body)}"
        f'<p class="tc-legend">{rest}<span>{apart_note(len(models))}</span></p></section>'
    )


def _pair(result: AnswerComparison, place: int, gallery: Gallery) -> str:
    first, row = result.answers[0], int(result.rows[place])
    cells = []
    for answers in result.answers:
        facts = percent(float(answers.probability[place]))
        if answers.unknown is not None and answers.unknown[place]:
            facts += " · unknown"
        same = bool(answers.first[place] == first.first[place])
        label = result.labels[answers.first[place]]
        marks = ("the same", "another")
        cells.append(answer_cell(answers.number, same, marks, label, facts, signs="=≠"))
    apart = float(result.divergence[place])
    return pair_row(gallery.thumbnail(row), gallery.captions[row], cells, apart)


def _strips(result: AnswerComparison, gallery: Gallery) -> str:
    first = result.answers[0]
    parts = [_strip("Far from all labels", first, result.far, result, gallery)]
    for answers in result.answers:
        if answers.unknown is not None:
            places = np.flatnonzero(answers.unknown)
            places = places[np.argsort(answers.probability[places], kind="stable")]
            parts.append(_strip(UNKNOWN, answers, places.tolist(), result, gallery))
    return "".join(parts)


def _strip(
    title: str,
    answers: ModelAnswers,
    places: Sequence[int],
    result: AnswerComparison,
    gallery: Gallery,
) -> str:
    if not places:
        return ""
    rows = [int(result.rows[place]) for place in places[:MAX_PICTURES]]
    items = "".join(
        f'<li><figure><img src="{gallery.thumbnail(row)}" alt=""></figure>'
        f"<p>{escape(gallery.captions[row])}</p></li>"
        for row in rows
    )
    more = len(places) - len(rows)
    rest = f'<p class="tc-legend"><span>{more:,} more</span></p>' if more > 0 else ""
    return (
        f'<section class="tc-part" {hue(answers.number)}><h3>{title}, according to '
        f'<span class="tc-dot">{escape(answers.name)}</span>: {len(places):,}</h3>'
        f'<ol class="tc-hits">{items}</ol>{rest}</section>'
    )
