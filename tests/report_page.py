"""Reads a report page as a browser would, and holds it to what a page must be."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "img"}

EVIL = "<script>alert('a')</script> & co"
NAME = "<img src=x onerror=alert(1)>"  # a folder may be called so


class Page(HTMLParser):
    """Elements, tables and text of a page; raises on markup that does not nest."""

    def __init__(self, markup):
        super().__init__()
        self.open, self.tags, self.ids = [], [], []
        self.tables, self.svgs, self.texts = [], [], []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes), f"{tag} has an attribute twice"
        self.tags.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            assert tag == "td" or values["scope"] in ("col", "row")
            self.tables[-1][-1].append("")
        elif tag == "svg":
            self.svgs.append(None)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        if self.open[-2:] == ["svg", "title"]:
            self.svgs[-1] = data

    def of(self, tag):
        return [values for name, values in self.tags if name == tag]

    def cells(self):
        return {cell for table in self.tables for row in table for cell in row}


def check_page(markup):
    """Assert what holds for every report; return the page."""
    page = Page(markup)
    assert markup.startswith("<!doctype html>\n<html lang=")
    for _, values in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert values.get(name, "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in values)
    for word in ("http://", "https://", "@import", "<script", "<iframe", "javascript:"):
        assert word not in markup
    assert len(page.ids) == len(set(page.ids))
    targets = [g["href"][1:] for t, g in page.tags if g.get("href", "").startswith("#")]
    labels = [g["aria-labelledby"] for _, g in page.tags if "aria-labelledby" in g]
    assert set(targets + labels) <= set(page.ids)
    assert page.svgs and all(page.svgs)
    assert all(image["alt"] for image in page.of("img"))
    assert len(page.of("h1")) == 1 and len(page.of("caption")) == len(page.tables)
    assert all(row[0] or row is table[0] for table in page.tables for row in table)
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    return page


def page_of(run, name="report.html"):
    """Check a run's page and return it."""
    return check_page((run / "report" / name).read_text(encoding="utf-8"))
