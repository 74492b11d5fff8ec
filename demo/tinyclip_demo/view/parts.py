"""Building blocks shared by the views."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tinyclip_edge.errors import first_names

NAMED = 3  # files named in a line
RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
COLOURS = 8  # model hues defined in page.css


def hue(number: int) -> str:
    """Return a style attribute with the colour of a model."""
    return f'style="--c:var(--tc-m{number % COLOURS})"'


def problem(message: str) -> str:
    """Return a message about an error that the user can fix."""
    text = message[:1].upper() + message[1:]
    return f'<p class="tc-note tc-problem" role="alert">{escape(text)}</p>'


def hint(message: str) -> str:
    """Return a message about what to do next."""
    return f'<p class="tc-note" role="status">{escape(message)}</p>'


def awaiting(names: Sequence[str]) -> str:
    """Return a message about models that are still loading, empty for none."""
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are"
    name_list = escape(", ".join(names))
    return f'<p class="tc-note tc-wait" role="status">{name_list} {verb} still loading …</p>'


def unknown_picture(models: Sequence[str]) -> str:
    """Return a warning about models that were not trained on such pictures, empty for none."""
    if not models:
        return ""
    verb, whose = ("was", "its labels") if len(models) == 1 else ("were", "their labels")
    names = escape(" and ".join(models))
    return (
        '<p class="tc-note tc-unknown" role="status"><span>This picture is unlike those that '
        f"<b>{names}</b> {verb} trained on: do not rely on {whose}</span></p>"
    )


def bar(title: str, share: float, status: str) -> str:
    """Return a progress bar with a title."""
    percent = round(share * 100)
    return (
        f'<section class="tc-result tc-progress" role="status"><p>{escape(title)}</p>'
        f'<ul><li><i class="tc-bar" role="progressbar" aria-valuenow="{percent}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="{escape(title)}">'
        f'<i style="width:{share:.1%}"></i></i><span>{escape(status)}</span></li></ul></section>'
    )


def chips(title: str, names: Sequence[str]) -> str:
    """Return a row of small buttons; each carries its index in the list."""
    buttons = "".join(
        f'<button type="button" data-at="{i}">{escape(name)}</button>'
        for i, name in enumerate(names)
    )
    name = escape(title)
    return (
        f'<div class="tc-chips" role="group" aria-label="{name}"><span>{name}</span>{buttons}</div>'
    )


def figure_table(
    title: str, heads: Sequence[str], rows: Sequence[tuple[str, str, Sequence[str]]]
) -> str:
    """Return a table of figures, which a phone displays as a list for each row.

    A row is attributes, its head as HTML, and its cells as HTML below ``heads[1:]``.
    """
    head = "".join(f'<th scope="col" role="columnheader">{escape(name)}</th>' for name in heads)
    body = "".join(
        f'<tr {attributes} role="row"><th scope="row" role="rowheader">{first}</th>'
        + "".join(
            f'<td role="cell" data-label="{escape(name)}"><span>{cell}</span></td>'
            for name, cell in zip(heads[1:], cells, strict=True)
        )
        + "</tr>"
        for attributes, first, cells in rows
    )
    return (
        f'<div class="tc-wide" tabindex="0" role="region" aria-label="{escape(title)}">'
        # The roles keep it a table for screen readers.
        f'<table class="tc-figures" role="table"><thead role="rowgroup"><tr role="row">{head}</tr>'
        f'</thead><tbody role="rowgroup">{body}</tbody></table></div>'
    )


def count(number: int, noun: str) -> str:
    """Format a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(names: Sequence[str], noun: str, what: str) -> str:
    """Return a line with the number of items and the names of the first few."""
    return f"{count(len(names), noun)}{what}: {first_names(names, NAMED)}"


def percent(share: float) -> str:
    """Format a probability as HTML."""
    return "&lt;0.1 %" if share < 0.0005 else f"{share * 100:.1f} %"


def milliseconds(value: float) -> str:
    """Format a time as HTML."""
    if value >= 100:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 0.1 else "<0.1 ms".replace("<", "&lt;")


def megabytes(size: int) -> str:
    """Format a size in 10^6 bytes."""
    # Weights that were never saved have no size on disk.
    return f"{size / 1e6:.1f} MB" if size else "not saved"


def millions(number: int) -> str:
    """Format a number of parameters."""
    return f"{number / 1e6:.2f} M" if number < 10e6 else f"{number / 1e6:.1f} M"
