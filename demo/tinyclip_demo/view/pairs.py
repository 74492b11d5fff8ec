"""Pairs on which the models disagree: picture, caption, every model's prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tinyclip_demo.disagree import Disagreement, MiningResult, Prediction
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.view.parts import count, hue, percent


def disagreements(
    mined: MiningResult, pairs: Sequence[Disagreement], gallery: Gallery, order: str = ""
) -> str:
    """Return the number of differing pairs and a table with a row per selected pair."""
    share = mined.differing / len(mined)
    heads = "".join(
        f'<th scope="col" {hue(number)}><span class="tc-dot">{escape(name)}</span></th>'
        for number, name in zip(mined.numbers, mined.names, strict=True)
    )
    body = "".join(_row(pair, mined, gallery) for pair in pairs)
    if not pairs:
        body = f'<tr><td colspan="{len(mined.names) + 2}">No pair of this kind</td></tr>'
    return (
        '<section class="tc-result"><p class="tc-verdict" role="status"><span>The models give '
        f"different answers to <b>{count(mined.differing, 'picture')}</b> of {len(mined):,} "
        f"(<b>{share:.1%}</b>), choosing among {count(len(mined.classes), 'caption')}</span></p>"
        '<div class="tc-wide" tabindex="0" role="region" aria-label="Pairs that differ">'
        '<table class="tc-pairs"><thead><tr><th scope="col">Pair</th>'
        f'{heads}<th scope="col">Apart</th></tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="tc-legend"><span>{escape(order)}</span><span>Each model: its answer, its '
        "probability, and the place of the pair's own caption</span>"
        "<span>Apart: divergence of the answers, in bits (0: equal, "
        f"{_max_divergence(len(mined.names))}: disjoint)</span></p></section>"
    )


def _row(pair: Disagreement, mined: MiningResult, gallery: Gallery) -> str:
    cells = "".join(
        _cell(prediction, pair, number)
        for number, prediction in zip(mined.numbers, pair.predictions, strict=True)
    )
    caption = escape(pair.caption)
    return (
        f'<tr><th scope="row"><div><figure><img src="{gallery.thumbnail(pair.row)}" alt="">'
        "</figure>"
        f"<span>{caption}</span></div></th>{cells}"
        f'<td class="tc-apart"><b>{pair.divergence:.2f}</b></td></tr>'
    )


def _cell(prediction: Prediction, pair: Disagreement, number: int) -> str:
    right = prediction.label == pair.caption
    mark = '<i aria-label="right">✓</i>' if right else '<i aria-label="wrong">✗</i>'
    rank_text = (
        ""
        if prediction.caption_rank == 1
        else f" · own caption at place {prediction.caption_rank:,}"
    )
    return (
        f'<td class="{"ok" if right else "no"}" {hue(number)}>{mark}'
        f"<b>{escape(prediction.label)}</b><small>{percent(prediction.probability)}{rank_text}</small></td>"
    )


def _max_divergence(models: int) -> str:
    return f"{math.log2(models):.2f}".rstrip("0").rstrip(".")
