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
    body = "".join(_row(pair, mined, gallery) for pair in pairs)
    models = tuple(zip(mined.numbers, mined.names, strict=True))
    return (
        '<section class="tc-result"><p class="tc-verdict" role="status"><span>The models choose '
        f"different captions for <b>{count(mined.differing, 'picture')}</b> of {len(mined):,} "
        f"(<b>{share:.1%}</b>), choosing among {count(len(mined.classes), 'caption')}</span></p>"
        f"{pair_table('Pair', models, body or _empty(models))}"
        f'<p class="tc-legend"><span>{escape(order)}</span><span>Each model: its choice, its '
        "probability, and the place of the pair's own caption</span>"
        f"<span>{apart_note(len(models))}</span></p></section>"
    )


def pair_table(first: str, models: Sequence[tuple[int, str]], body: str) -> str:
    """Return the table of rows of ``pair_row``; ``models`` are numbers and names."""
    heads = "".join(
        f'<th scope="col" {hue(number)}><span class="tc-dot">{escape(name)}</span></th>'
        for number, name in models
    )
    return (
        f'<div class="tc-wide" tabindex="0" role="region" aria-label="{escape(first)}s that '
        f'differ"><table class="tc-pairs"><thead><tr><th scope="col">{escape(first)}</th>{heads}'
        f'<th scope="col">Apart</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def pair_row(uri: str, caption: str, cells: Sequence[str], divergence: float) -> str:
    """Return a row with a picture, a cell of ``answer_cell`` for each model, and a divergence."""
    return (
        f'<tr><th scope="row"><div><figure><img src="{uri}" alt=""></figure>'
        f"<span>{escape(caption)}</span></div></th>{''.join(cells)}"
        f'<td class="tc-apart"><b>{divergence:.2f}</b></td></tr>'
    )


def answer_cell(
    number: int, right: bool, marks: tuple[str, str], label: str, facts: str, signs: str = "✓✗"
) -> str:
    """Return a model's prediction; ``marks`` say in words what right and not right mean."""
    at = 0 if right else 1
    kind, sign, mark = ("ok", "no")[at], signs[at], marks[at]
    return (
        f'<td class="{kind}" {hue(number)}><i aria-label="{mark}">{sign}</i>'
        f"<b>{escape(label)}</b><small>{facts}</small></td>"
    )


def apart_note(models: int) -> str:
    """Return what the last column means for this number of models."""
    largest = f"{math.log2(models):.2f}".rstrip("0").rstrip(".")
    return f"Apart: divergence of the predictions, in bits (0: equal, {largest}: disjoint)"


def _empty(models: Sequence[object]) -> str:
    return f'<tr><td colspan="{len(models) + 2}">No pair of this kind</td></tr>'


def _row(pair: Disagreement, mined: MiningResult, gallery: Gallery) -> str:
    cells = [
        _cell(prediction, pair, number)
        for number, prediction in zip(mined.numbers, pair.predictions, strict=True)
    ]
    return pair_row(gallery.thumbnail(pair.row), pair.caption, cells, pair.divergence)


def _cell(prediction: Prediction, pair: Disagreement, number: int) -> str:
    facts = percent(prediction.probability)
    if prediction.caption_rank > 1:
        facts += f" · own caption at place {prediction.caption_rank:,}"
    right = prediction.label == pair.caption
    return answer_cell(number, right, ("right", "wrong"), prediction.label, facts)
