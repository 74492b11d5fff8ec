"""Results as HTML; every text that a user or a file can choose is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.service import ClassifyResult, Hit, IndexProgress, SearchResult
from tinyclip_edge.runtime.protocol import Embedder

COLOURS = 5  # hues that page.css defines for models
ROWS_SHOWN = 10
RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}


def header(names: Sequence[str], models: Sequence[Embedder], gallery: Gallery) -> str:
    """Title and one card per model."""
    skipped = f", {_count(gallery.skipped, 'file')} skipped" if gallery.skipped else ""
    cards = "".join(_card(name, models, i) for i, name in enumerate(names))
    return (
        '<header class="tc-head"><div class="tc-title"><h1>tinyclip-edge</h1>'
        "<p>One CLIP and its distilled students, on the same input</p></div>"
        f'<p class="tc-gallery"><b>{len(gallery):,}</b> pictures'
        f"<span>{escape(gallery.name)}{skipped}</span></p></header>"
        f'<ul class="tc-cards">{cards}</ul>'
    )


def classification(results: Sequence[ClassifyResult], models: Sequence[Embedder]) -> str:
    """Bars of all models in one table: a row per label, a column per model."""
    shown, rest = _rows(results)
    heads = "".join(_column_head(result, models[i], i) for i, result in enumerate(results))
    body = "".join(_label_row(results, row) for row in shown)
    if rest:
        least = max(result.probabilities[row] for result in results for row in rest)
        body += (
            f'<tr class="tc-rest"><th colspan="{len(results) + 1}">'
            f"{_count(len(rest), 'more label')}, none above {_percent(least)}</th></tr>"
        )
    return (
        f'<section class="tc-result">{_verdict(results)}'
        f'<table class="tc-bars" style="--n:{len(results)}">'
        f"<thead><tr><td></td>{heads}</tr></thead>"
        f"<tbody>{body}</tbody><tfoot>{_latency_rows(results)}</tfoot></table></section>"
    )


def search(results: Sequence[SearchResult], gallery: Gallery, unreadable: int = 0) -> str:
    """One strip of pictures per model, place under place."""
    strips = "".join(_strip(result, i, gallery) for i, result in enumerate(results))
    notes = []
    if len(results) > 1:
        name, k = escape(results[0].model), len(results[0].hits)
        notes = [
            f'<b class="tc-delta up">▲2</b> two places higher than for {name}',
            '<b class="tc-delta down">▼1</b> one place lower',
            f'<b class="tc-delta new">#{k + 14}</b> not among its first {k}: '
            f"there at place {k + 14}",
        ]
    if unreadable:
        notes.append(f"{_count(unreadable, 'broken picture')} left out")
    legend = "".join(f"<span>{note}</span>" for note in notes)
    return (
        f'<section class="tc-result">{strips}'
        + (f'<p class="tc-legend">{legend}</p>' if legend else "")
        + "</section>"
    )


def progress(step: IndexProgress, names: Sequence[str]) -> str:
    """How far each model has encoded the gallery."""
    lines = []
    for i, name in enumerate(names):
        now = step.done / step.total if i == step.number else 0.0
        share = 1.0 if i < step.number else now
        lines.append(
            f'<li {_hue(i)}><span class="tc-dot">{escape(name)}</span>'
            f'<i class="tc-bar"><i style="width:{share:.1%}"></i></i>'
            f"<span>{round(share * step.total):,} / {step.total:,}</span></li>"
        )
    return (
        '<section class="tc-result tc-progress" role="status"><p>Encoding the gallery, once per '
        f"model</p><ul>{''.join(lines)}</ul></section>"
    )


def problem(message: str) -> str:
    """What the user has to mend."""
    text = message[:1].upper() + message[1:]
    return f'<p class="tc-note tc-problem" role="alert">{escape(text)}</p>'


def hint(message: str) -> str:
    """What to do next."""
    return f'<p class="tc-note">{escape(message)}</p>'


def chips(title: str, names: Sequence[str]) -> str:
    """A row of small buttons; each tells its place in the list."""
    buttons = "".join(
        f'<button type="button" data-at="{i}">{escape(name)}</button>'
        for i, name in enumerate(names)
    )
    name = escape(title)
    return (
        f'<div class="tc-chips" role="group" aria-label="{name}"><span>{name}</span>{buttons}</div>'
    )


def example_pictures(gallery: Gallery, indices: Sequence[int]) -> str:
    """A row of thumbnails as buttons; each tells its place in the list."""
    buttons = "".join(
        f'<button type="button" data-at="{i}" title="{escape(gallery.captions[at])}" '
        f'aria-label="Example: {escape(gallery.captions[at])}">'
        f'<img src="{gallery.thumbnail(at)}" alt=""></button>'
        for i, at in enumerate(indices)
    )
    return f'<div class="tc-examples" role="group" aria-label="Examples">{buttons}</div>'


def _hue(number: int) -> str:
    return f'style="--c:var(--tc-m{number % COLOURS})"'


def _card(name: str, models: Sequence[Embedder], number: int) -> str:
    spec, first = models[number].spec, models[0].spec
    runtime = RUNTIMES.get(spec.runtime, spec.runtime)
    return (
        f'<li {_hue(number)}><h2 title="{escape(name)}">{escape(name)}</h2>'
        f'<p class="tc-tags"><span>{escape(runtime)}</span><span>{escape(spec.precision)}</span>'
        f"<span>{spec.image_size} px</span></p><dl>"
        f"<div><dt>Encoder parameters</dt><dd>{_millions(spec.encoder_parameters)}"
        f"{_share(spec.encoder_parameters, first.encoder_parameters, number)}</dd></div>"
        f"<div><dt>On disk</dt><dd>{_megabytes(spec.bytes_on_disk)}"
        f"{_share(spec.bytes_on_disk, first.bytes_on_disk, number)}</dd></div></dl></li>"
    )


def _share(value: int, reference: int, number: int) -> str:
    if number == 0 or value <= 0 or reference <= 0:
        return ""
    change = value / reference - 1
    return f" <small>{change:+.0%}</small>".replace("-", "−") if round(change, 2) else ""


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count < 10e6 else f"{count / 1e6:.1f} M"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _megabytes(count: int) -> str:
    # Weights that were never saved have no size on disk.
    return f"{count / 1e6:.1f} MB" if count else "not saved"


def _rows(results: Sequence[ClassifyResult]) -> tuple[list[int], list[int]]:
    """Labels that some model finds probable, in the first model's order; and the rest."""
    table = np.array([result.probabilities for result in results])
    probable = set(np.argsort(-table.max(axis=0), kind="stable")[:ROWS_SHOWN].tolist())
    shown = probable | {result.labels.index(result.best) for result in results}
    order = np.argsort(-table[0], kind="stable").tolist()
    return [row for row in order if row in shown], [row for row in order if row not in shown]


def _verdict(results: Sequence[ClassifyResult]) -> str:
    first = results[0]
    if len(results) == 1:
        return f'<p class="tc-verdict" role="status"><b>{escape(first.best)}</b></p>'
    if all(result.agrees for result in results):
        count = "Both" if len(results) == 2 else f"All {len(results)}"
        return (
            f'<p class="tc-verdict agree" role="status"><i>✓</i><span>{count} models '
            f"say <b>{escape(first.best)}</b></span></p>"
        )
    answers: dict[str, list[str]] = {}
    for result in results:
        answers.setdefault(result.best, []).append(escape(result.model))
    said = "; ".join(
        f"{', '.join(who)} {'say' if len(who) > 1 else 'says'} <b>{escape(best)}</b>"
        for best, who in answers.items()
    )
    return f'<p class="tc-verdict differ" role="status"><i>≠</i><span>{said}</span></p>'


def _column_head(result: ClassifyResult, model: Embedder, number: int) -> str:
    spec = model.spec
    facts = f"{RUNTIMES.get(spec.runtime, spec.runtime)} {spec.precision}"
    mark = ""
    if number:
        mark = '<em class="ok">agrees</em>' if result.agrees else '<em class="no">differs</em>'
    return (
        f'<th scope="col" {_hue(number)}><span class="tc-dot">{escape(result.model)}</span>'
        f"<small>{escape(facts)} {mark}</small></th>"
    )


def _label_row(results: Sequence[ClassifyResult], row: int) -> str:
    reference = results[0].probabilities[row]
    cells = []
    for number, result in enumerate(results):
        share = result.probabilities[row]
        tick = f'<b style="left:{reference:.2%}"></b>' if number and reference > 0.01 else ""
        top = ' class="top"' if result.labels[row] == result.best else ""
        cells.append(
            f'<td{top} {_hue(number)} data-model="{escape(result.model)}"><i class="tc-bar">'
            f'<i style="width:{share:.2%}"></i>{tick}</i><span>{_percent(share)}</span></td>'
        )
    return f'<tr><th scope="row">{escape(results[0].labels[row])}</th>{"".join(cells)}</tr>'


def _latency_rows(results: Sequence[ClassifyResult]) -> str:
    texts = [r.text_ms for r in results]
    rows = [
        _latency_row("Preprocess", [r.preprocess_ms for r in results], "within encode"),
        _latency_row("Encode image", [r.image_ms for r in results]),
        _latency_row(f"Encode {len(results[0].labels)} labels", texts, "cached"),
    ]
    return "".join(rows)


def _latency_row(name: str, values: Sequence[float | None], missing: str = "") -> str:
    cells = "".join(
        f"<td {_hue(i)}>{missing if value is None else _ms(value)}</td>"
        for i, value in enumerate(values)
    )
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def _strip(result: SearchResult, number: int, gallery: Gallery) -> str:
    k = len(result.hits)
    shared = ""
    if number:
        kind = "ok" if result.overlap == 1 else "no" if result.overlap < 0.5 else ""
        shared = f'<em class="{kind}">overlap@{k}: {round(result.overlap * k)} of {k}</em>'
    items = "".join(_hit(hit, k, gallery, compared=number > 0) for hit in result.hits)
    return (
        f'<section class="tc-strip" {_hue(number)} data-model="{escape(result.model)}"><header>'
        f'<h3 class="tc-dot">{escape(result.model)}</h3>{shared}<p>'
        f"<span>query {_ms(result.text_ms)}</span>"
        f"<span>ranking {_ms(result.rank_ms)}</span>"
        f"<span>gallery encoded in {result.index_seconds:.1f} s</span></p></header>"
        f'<ol class="tc-hits">{items}</ol></section>'
    )


def _hit(hit: Hit, k: int, gallery: Gallery, *, compared: bool) -> str:
    caption = escape(gallery.captions[hit.index])
    kind, delta = "", ""
    moved = hit.reference_rank - hit.rank
    if compared and hit.reference_rank > k:
        kind, delta = "new", f"#{hit.reference_rank}"
    elif compared and moved:
        kind, delta = ("up", f"▲{moved}") if moved > 0 else ("down", f"▼{-moved}")
    badge = f'<b class="tc-delta {kind}">{delta}</b>' if delta else ""
    return (
        f'<li class="{kind}" title="{caption}"><div class="tc-place"><b>{hit.rank}</b>{badge}</div>'
        f'<figure><img src="{gallery.thumbnail(hit.index)}" alt=""></figure>'
        f"<p>{caption}</p><small>{hit.score:.3f}</small></li>"
    )


def _percent(share: float) -> str:
    return "<0.1 %".replace("<", "&lt;") if share < 0.0005 else f"{share * 100:.1f} %"


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"
