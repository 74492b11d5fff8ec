"""Search results: one strip per model, with equal ranks aligned."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.search import IndexProgress, SearchHit, SearchResult
from tinyclip_demo.view.parts import count, hue, milliseconds, named, unknown_picture
from tinyclip_edge.units import duration


def search(
    results: Sequence[SearchResult], gallery: Gallery, query_html: str = "", unreadable: int = 0
) -> str:
    """Return one strip per model, with differing ranks marked; ``query_html`` shows the query."""
    strips = "".join(
        _strip(result, gallery, compared=index > 0) for index, result in enumerate(results)
    )
    notes = []
    if len(results) > 1:
        name, k = escape(results[0].model), len(results[0].hits)
        notes = [
            f'<b class="tc-delta up">▲2</b> two places higher than for {name}',
            '<b class="tc-delta down">▼1</b> one place lower',
            f'<b class="tc-delta new">#{k + 14}</b> not among its first {k}, '
            f"but at place {k + 14} there",
        ]
    notes.append("Choose a picture to find more like it")
    if unreadable:
        notes.append(f"{count(unreadable, 'broken picture')} left out")
    strangers = unknown_picture([result.model for result in results if result.familiar is False])
    legend = "".join(f"<span>{note}</span>" for note in notes)
    return (
        f'<section class="tc-result">{strangers}{query_html}{strips}'
        f'<p class="tc-legend">{legend}</p></section>'
    )


def picture_query(uri: str, caption: str) -> str:
    """Return a picture query as HTML."""
    return (
        f'<p class="tc-asked"><img src="{escape(uri)}" alt="">'
        f"<span>Pictures like <b>{escape(caption)}</b></span></p>"
    )


def text_query(text: str) -> str:
    """Return a text query as HTML."""
    return f'<p class="tc-asked"><span>Pictures of <b>{escape(text)}</b></span></p>'


def gallery_line(gallery: Gallery, verb: str = "Searching") -> str:
    """Return one line on the gallery, with the files that were skipped."""
    skipped = f", {named(gallery.skipped, 'file', ' skipped')}" if gallery.skipped else ""
    return (
        f'<p class="tc-gallery" role="status">{escape(verb)} '
        f"<b>{count(len(gallery), 'picture')}</b>: {escape(gallery.name + skipped)}</p>"
    )


def indexing(step: IndexProgress, names: Sequence[str], numbers: Sequence[int]) -> str:
    """Return each model's progress in encoding the gallery."""
    lines = []
    for number in numbers:
        encoded_share = step.encoded / step.total if number == step.number else 0.0
        share = 1.0 if number in step.completed else encoded_share
        lines.append(
            f'<li {hue(number)}><span class="tc-dot">{escape(names[number])}</span>'
            f'<i class="tc-bar"><i style="width:{share:.1%}"></i></i>'
            f"<span>{round(share * step.total):,} / {step.total:,}</span></li>"
        )
    return (
        '<section class="tc-result tc-progress" role="status"><p>Encoding the pictures, once per '
        f"model; the result is stored on disk</p><ul>{''.join(lines)}</ul></section>"
    )


def _strip(result: SearchResult, gallery: Gallery, *, compared: bool) -> str:
    k = len(result.hits)
    overlap = ""
    if compared:
        kind = "ok" if result.overlap == 1 else "no" if result.overlap < 0.5 else ""
        overlap = f'<em class="{kind}">overlap@{k}: {round(result.overlap * k)} of {k}</em>'
    items = "".join(_hit(hit, k, gallery, compared=compared) for hit in result.hits)
    index = "index read from disk in" if result.index_from_disk else "gallery encoded in"
    return (
        f'<section class="tc-strip" {hue(result.number)} data-model="{escape(result.model)}">'
        f'<header><h3 class="tc-dot">{escape(result.model)}</h3>{overlap}<p>'
        f"<span>query {milliseconds(result.query_ms)}</span>"
        f"<span>ranking {milliseconds(result.rank_ms)}</span>"
        f"<span>{index} {duration(result.index_seconds)}</span></p></header>"
        f'<ol class="tc-hits">{items}</ol></section>'
    )


def _hit(hit: SearchHit, k: int, gallery: Gallery, *, compared: bool) -> str:
    caption = escape(gallery.captions[hit.index])
    kind, delta, rank_text = "", "", ""
    rank_change = hit.reference_rank - hit.rank
    if compared and hit.reference_rank > k:
        kind, delta = "new", f"#{hit.reference_rank}"
        rank_text = f", place {hit.reference_rank} for the first model"
    elif compared and rank_change:
        kind, delta = ("up", f"▲{rank_change}") if rank_change > 0 else ("down", f"▼{-rank_change}")
        rank_text = f", place {hit.reference_rank} for the first model"
    badge = f'<b class="tc-delta {kind}" aria-hidden="true">{delta}</b>' if delta else ""
    return (
        f'<li class="{kind}"><div class="tc-place"><b>{hit.rank}</b>{badge}</div>'
        f'<button type="button" data-at="{hit.index}" title="{caption}" '
        f'aria-label="{caption}{rank_text}: find more like it">'
        f'<img src="{gallery.thumbnail(hit.index)}" alt=""></button>'
        f"<p>{caption}</p><small>{hit.score:.3f}</small></li>"
    )
