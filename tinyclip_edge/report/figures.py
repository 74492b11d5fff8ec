"""Figures as PNG files, and as inline SVG whose colours follow the page's theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.report.drawing import FAINT, INK, SERIES, STYLE
from tinyclip_edge.report.html import Safe, element

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120  # of PNG files
INCHES = (4.7, 3.1)  # narrow, so that labels stay readable on a phone
COLOURS = {INK: "var(--ink)", FAINT: "var(--faint)"} | {
    colour: f"var(--s{place})" for place, colour in enumerate(SERIES)
}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_REMOVED_TAGS = {"metadata", "style"}


def figure(
    key: str,
    title: str,
    draw: Callable[[Figure], None],
    *,
    caption: str = "",
    inches: tuple[float, float] = INCHES,
) -> Safe:
    """Return a ``<figure>``; ``key`` is unique on the page, ``title`` is its text alternative."""
    # Not pyplot: it keeps figures and a display backend for the whole process.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    page = io.StringIO()
    # As text, not outlines: small, selectable, in the page's own font.
    with rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": key}):
        drawing = Figure(figsize=inches)
        FigureCanvasSVG(drawing)
        draw(drawing)
        drawing.savefig(page, format="svg", metadata={"Date": None})
    caption_parts = [element("b", title), *([" ", caption] if caption else [])]
    return element(
        "figure", _inline(page.getvalue(), key, title), element("figcaption", *caption_parts)
    )


def write_png(path: Path, draw: Callable[[Figure], None], inches: tuple[float, float]) -> None:
    """Write a figure as a PNG file. Raises DataError when the disk refuses."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(dict(STYLE)):
        drawing = Figure(figsize=inches, dpi=DPI)
        FigureCanvasAgg(drawing)
        draw(drawing)
        with file_written_aside(path) as file:
            drawing.savefig(file, format="png", facecolor="white")


def _inline(svg: str, key: str, title: str) -> Safe:
    """Return matplotlib's SVG for embedding: no namespaces, ids unique on the page, a title."""
    root = ElementTree.fromstring(svg)
    referenced: set[str] = set()
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in _REMOVED_TAGS:
                parent.remove(child)
    for node in root.iter():
        node.tag = _local(node.tag)
        node.attrib = {_local(name): value for name, value in node.attrib.items()}
        for value in node.attrib.values():
            referenced.update(_REFERENCE.findall(value))
        if node.get("href", "").startswith("#"):
            referenced.add(node.attrib["href"][1:])
    for node in root.iter():
        _rename(node, key, referenced)
    about = ElementTree.Element("title")
    about.text = title
    about.set("id", f"{key}-title")
    root.insert(0, about)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{key}-title",
    }
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, name in COLOURS.items():
        text = text.replace(colour, name)
    return Safe(text)


def _rename(node: ElementTree.Element, key: str, referenced: set[str]) -> None:
    name = node.attrib.pop("id", None)
    if name in referenced:
        node.set("id", f"{key}-{name}")
    for attribute, value in node.attrib.items():
        if attribute == "href" and value.startswith("#"):
            node.set(attribute, f"#{key}-{value[1:]}")
        else:
            node.set(attribute, _REFERENCE.sub(rf"url(#{key}-\1)", value))


def _local(name: str) -> str:
    return name.rpartition("}")[2]
