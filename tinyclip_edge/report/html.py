"""Build HTML from plain values; everything that is not ``Safe`` is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from tinyclip_edge.report.words import NONE

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # not allowed in a page
_VOID = {"meta", "link", "img"}
LISTED_COLUMNS, MAX_LISTS = 4, 12  # fewest columns, most rows of tables listed on phones


class Safe(str):
    """A string that is already HTML and is not escaped again."""

    __slots__ = ()


def text(value: object) -> Safe:
    """Return a value as HTML."""
    if isinstance(value, Safe):
        return value
    return Safe(html.escape(_CONTROL.sub("�", str(value))))


def element(name: str, *children: object, **attributes: object) -> Safe:
    """Return an element; ``class_`` and ``aria_label`` stand for ``class`` and ``aria-label``.

    Attributes that are None are omitted.
    """
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_CONTROL.sub("�", str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    opening = f"<{name}{attribute_text}>"
    return Safe(opening if name in _VOID else f"{opening}{concatenate(children)}</{name}>")


def concatenate(parts: Iterable[object]) -> Safe:
    """Return the parts as one piece of HTML."""
    return Safe("".join(text(part) for part in parts))


def section(key: str, title: str, *children: object) -> Safe:
    """Return a part of the page with its heading."""
    return element("section", element("h2", title, id=key), *children, aria_labelledby=key)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], caption: str) -> Safe:
    """Return a table whose first column heads the rows.

    On a phone, a table with ``LISTED_COLUMNS`` or more becomes a list for each row; with more than
    ``MAX_LISTS`` rows it scrolls horizontally instead.
    """
    rows = list(rows)
    listed = len(head) >= LISTED_COLUMNS and len(rows) <= MAX_LISTS

    def role(name: str) -> str | None:
        # An element that is not displayed as a table loses its role unless it is named.
        return name if listed else None

    header = element(
        "tr", *(element("th", cell, scope="col", role=role("columnheader")) for cell in head),
        role=role("row"),
    )  # fmt: skip
    body = (
        element(
            "tr",
            element("th", first, scope="row", role=role("rowheader")),
            *(
                element(
                    "td",
                    cell,
                    role=role("cell"),
                    data_label=name if listed else None,
                    class_="none" if listed and cell == NONE else None,
                )
                for name, cell in zip(head[1:], cells, strict=True)
            ),
            role=role("row"),
        )
        for first, *cells in rows
    )
    table_element = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", header, role=role("rowgroup")),
        element("tbody", *body, role=role("rowgroup")),
        role=role("table"),
        class_="listed" if listed else None,
    )
    return element(
        "div", table_element, class_="wide", role="region", aria_label=caption, tabindex="0"
    )


def facts(rows: Iterable[tuple[str, object]]) -> Safe:
    """Return a description list of names and values."""
    pairs = (element("div", element("dt", name), element("dd", value)) for name, value in rows)
    return element("dl", *pairs, class_="facts")


def folded(title: str, *children: object) -> Safe:
    """Return content that is collapsed until the reader opens it."""
    return element("details", element("summary", title), *children)


def note(value: object) -> Safe:
    """Return a remark."""
    return element("p", value, class_="note")
