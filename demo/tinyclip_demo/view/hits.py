"""Pictures found: one strip per model, place under place."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.search import IndexProgress, SearchHit, SearchResult
from tinyclip_demo.view.parts import count, hue, milliseconds


def search(
    results: Sequence[SearchResult], gallery: Gallery, asked: str = "", unreadable: int = 0
) -> str:
    """Strips, ranks that differ marked; ``asked`` is HTML that tells what was searched."""
    strips = "".join(
        _strip(result, gallery, compared=place > 0) for place, result in enumerate(results)
    )
    notes = []
    if len(results) > 1:
        name, k = escape(results[0].model), len(results[0].hits)
        notes = [
            f'<b class="tc-delta up">▲2</b> two places higher than for {name}',
            '<b class="tc-delta down">▼1</b> one place lower',
            f'<b class="tc-delta new">#{k + 14}</b> not among its first {k}: '
            f"there at place {k + 14}",
        ]
    notes.append("Choose a picture to find more like it")
    if unreadable:
        notes.append(f"{count(unreadable, 'broken picture')} left out")
    legend = "".join(f"<span>{note}</span>" for note in notes)
    return f'<section class="tc-result">{asked}{strips}<p class="tc-legend">{legend}</p></section>'


def asked_picture(uri: str, caption: str) -> str:
    """What was searched, when it was a picture."""
    return (
        f'<p class="tc-asked"><img src="{escape(uri)}" alt="">'
        f"<span>Pictures like <b>{escape(caption)}</b></span></p>"
    )


def asked_text(text: str) -> str:
    """What was searched, when it was a text."""
    return f'<p class="tc-asked"><span>Pictures of <b>{escape(text)}</b></span></p>'


def gallery_line(gallery: Gallery) -> str:
    """What is searched."""
    skipped = f", {count(gallery.skipped, 'file')} skipped" if gallery.skipped else ""
    return (
        f'<p class="tc-gallery" role="status">Searching <b>{count(len(gallery), "picture")}</b>: '
        f"{escape(gallery.name)}{skipped}</p>"
    )


def indexing(step: IndexProgress, names: Sequence[str], numbers: Sequence[int]) -> str:
    """How far each of the models has encoded the gallery."""
    lines = []
    for number in numbers:
        done = step.done / step.total if number == step.number else 0.0
        share = 1.0 if number in step.finished else done
        lines.append(
            f'<li {hue(number)}><span class="tc-dot">{escape(names[number])}</span>'
            f'<i class="tc-bar"><i style="width:{share:.1%}"></i></i>'
            f"<span>{round(share * step.total):,} / {step.total:,}</span></li>"
        )
    return (
        '<section class="tc-result tc-progress" role="status"><p>Encoding the pictures, once per '
        f"model; the result is kept on disk</p><ul>{''.join(lines)}</ul></section>"
    )


def _strip(result: SearchResult, gallery: Gallery, *, compared: bool) -> str:
    k = len(result.hits)
    shared = ""
    if compared:
        kind = "ok" if result.overlap == 1 else "no" if result.overlap < 0.5 else ""
        shared = f'<em class="{kind}">overlap@{k}: {round(result.overlap * k)} of {k}</em>'
    items = "".join(_hit(hit, k, gallery, compared=compared) for hit in result.hits)
    index = "index read from disk in" if result.index_kept else "gallery encoded in"
    return (
        f'<section class="tc-strip" {hue(result.number)} data-model="{escape(result.model)}">'
        f'<header><h3 class="tc-dot">{escape(result.model)}</h3>{shared}<p>'
        f"<span>query {milliseconds(result.query_ms)}</span>"
        f"<span>ranking {milliseconds(result.rank_ms)}</span>"
        f"<span>{index} {_seconds(result.index_seconds)}</span></p></header>"
        f'<ol class="tc-hits">{items}</ol></section>'
    )


def _hit(hit: SearchHit, k: int, gallery: Gallery, *, compared: bool) -> str:
    caption = escape(gallery.captions[hit.index])
    kind, delta, told = "", "", ""
    moved = hit.reference_rank - hit.rank
    if compared and hit.reference_rank > k:
        kind, delta = "new", f"#{hit.reference_rank}"
        told = f", place {hit.reference_rank} for the first model"
    elif compared and moved:
        kind, delta = ("up", f"▲{moved}") if moved > 0 else ("down", f"▼{-moved}")
        told = f", place {hit.reference_rank} for the first model"
    badge = f'<b class="tc-delta {kind}" aria-hidden="true">{delta}</b>' if delta else ""
    return (
        f'<li class="{kind}"><div class="tc-place"><b>{hit.rank}</b>{badge}</div>'
        f'<button type="button" data-at="{hit.index}" title="{caption}" '
        f'aria-label="{caption}{told}: find more like it">'
        f'<img src="{gallery.thumbnail(hit.index)}" alt=""></button>'
        f"<p>{caption}</p><small>{hit.score:.3f}</small></li>"
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.0f} ms"
