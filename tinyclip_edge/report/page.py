"""The frame of every page: its head, style and policy, and the links to its parts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from tinyclip_edge import __version__
from tinyclip_edge.report.html import Safe, concatenate, element

# A second line of defence: the page has no scripts and loads nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report_page(
    title: str, head: Sequence[Safe], body: Sequence[Safe], *, origin: str = "the run folder alone"
) -> str:
    """Return a self-contained page that names the origin of its figures."""
    style = Safe(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))
    metas = [
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("link", rel="icon", href="data:,"),
        element("title", f"{title} · tinyclip-edge report"),
        element("style", style),
    ]
    page = [
        element("head", *metas),
        element(
            "body",
            element("header", *head),
            element("main", *body),
            element("footer", f"Written by tinyclip-edge {__version__}, from {origin}."),
        ),
    ]
    return "<!doctype html>\n" + element("html", concatenate(page), lang="en") + "\n"


def page_links(targets: Sequence[tuple[str, str]]) -> Safe:
    """Return links to parts of the page from their keys and names."""
    items = (element("li", element("a", name, href=f"#{key}")) for key, name in targets)
    return element("nav", element("ul", *items), aria_label="Parts of this report")
