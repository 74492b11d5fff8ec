"""A text or a picture asks, every model's nearest pictures answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.presets import QUERIES
from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs.wiring import (
    CHOOSE,
    EACH,
    LAST,
    QUIET,
    Handler,
    Session,
    check_paths,
    failures,
    html,
    picker,
    picture_input,
    place,
    told,
    waiting,
)
from tinyclip_demo.texts import check_text
from tinyclip_demo.uploads import open_upload
from tinyclip_demo.view import hits, parts
from tinyclip_edge.errors import TinyClipError

NAME = "search"
COUNTS = (5, 10, 20)
START = "The pictures are encoded at the first search."
TEXT, UPLOAD, ROW = "text", "upload", "row"  # what may ask
Asked = tuple[str, Any]


def search_tab(service: DemoService, session: Session, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    asked = gr.State((TEXT, QUERIES[0]))
    with gr.Row(elem_classes="tc-query", equal_height=True):
        query = gr.Textbox(
            QUERIES[0], label="Describe a picture", scale=8, min_width=220, max_lines=1,
            elem_id="query",
        )  # fmt: skip
        count = gr.Dropdown(
            list(COUNTS), value=10, label="Pictures", scale=1, min_width=90, elem_id="count"
        )
        button = gr.Button(
            "Search", variant="primary", scale=1, min_width=110, elem_id="search-button"
        )
    ideas = html(parts.chips("Try", QUERIES), "ideas", CHOOSE)
    more = gr.Accordion("Search by a picture, or in pictures of your own", open=False)
    with more, gr.Row(elem_id="own-pictures"):
        image = picture_input(None, "query-image", "Find pictures like this one", 190)
        dropped = gr.File(
                label="Pictures to search in: drop them here", file_count="multiple",
                file_types=["image"], height=190, elem_id="dropped",
            )  # fmt: skip
        with gr.Column(min_width=220):
            folder = gr.Textbox(
                    label="… or a folder on this machine", max_lines=1, elem_id="folder",
                    visible=service.paths,
                )  # fmt: skip
            opened = gr.Button("Open folder", elem_id="open-folder", visible=service.paths)
            own = gr.Button("Back to the page's own pictures", elem_id="own-gallery")
    line = html(hits.gallery_line(service.galleries.own), "gallery")
    result = html(parts.hint(START), "found", CHOOSE)

    settings = [count, session.chosen, session.gallery]
    _wire_queries(
        service, (query, button, ideas, image, count), (tab, session, settings), (result, asked)
    )
    again = _again(service)
    brought = [line, session.gallery]
    open_folder = _bring(service, service.galleries.open_folder, paths=True)
    for bring, event, values in (
        (_bring(service, service.galleries.drop), dropped.upload, [dropped]),
        (open_folder, opened.click, [folder]),
        (open_folder, folder.submit, [folder]),
        (_bring(service, lambda: None), own.click, []),
    ):
        done = event(bring, values, brought, **QUIET)
        done.success(again, [asked, *settings], [result, asked], **QUIET)


def _wire_queries(
    service: DemoService,
    controls: tuple[Any, ...],
    surroundings: tuple[gr.Tab, Session, list[Any]],
    outputs: tuple[gr.HTML, gr.State],
) -> None:
    query, button, ideas, image, count = controls
    tab, session, settings = surroundings
    result, asked = outputs
    both = [result, asked]

    @told(NAME, 2)
    def by_text(
        text: str, k: int, names: Sequence[str] | None = None, key: str | None = None
    ) -> Iterator[Any]:
        yield from _search(service, (TEXT, text or ""), (k, names, key))

    @told(NAME, 2)
    def by_upload(path: str | None, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        yield from _search(service, (UPLOAD, path), values)

    @told(NAME, 2)
    def by_row(row: int, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        yield from _search(service, (ROW, (values[2], row)), values)

    def clicked(event: gr.EventData, request: gr.Request, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        row = place(event, len(service.galleries.get(values[2])))
        yield from by_row(request, row, *values)

    @told(NAME, 2)
    def rechosen(where: str, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        there = where == NAME
        yield from _search_again(service, *values) if there else [(gr.skip(), gr.skip())]

    asking = [button.click, query.submit]
    gr.on(asking, by_text, [query, *settings], both, api_name="search", **LAST)
    ideas.click(picker(QUERIES), None, query, **EACH).then(
        by_text, [query, *settings], both, **QUIET
    )
    image.upload(by_upload, [image, *settings], both, **QUIET)
    again = _again(service)
    result.click(clicked, settings, both, **EACH)
    gr.on([count.input, tab.select], again, [asked, *settings], both, **QUIET)
    session.chosen.change(rechosen, [session.tab, asked, *settings], both, **QUIET)


def _again(service: DemoService) -> Handler:
    @told(NAME, 2)
    def again(*values: Any) -> Iterator[Any]:  # noqa: ANN401
        yield from _search_again(service, *values)

    return again


def _search_again(service: DemoService, asked: Asked, *values: Any) -> Iterator[Any]:  # noqa: ANN401
    kind, what = asked
    # A picture of one gallery is not in another.
    if kind == ROW and what[0] != values[2]:
        asked = (TEXT, QUERIES[0])
    yield from _search(service, asked, values)


def _search(service: DemoService, asked: Asked, values: Sequence[Any]) -> Iterator[Any]:
    """Yield (HTML, what was asked), with progress while the gallery is encoded."""
    k, names, key = values
    gallery = service.galleries.get(key)
    yield gr.skip(), asked
    question, told_as = _question(asked, gallery)
    for ready, _settled in service.arriving(names):
        note = waiting(service, names) + failures(service, names)
        for step in service.searcher.indexing(gallery, ready):
            yield note + hits.indexing(step, service.shelf.names, ready), gr.skip()
        shown = ""
        if ready:
            found = service.searcher.search(question, int(k), gallery, ready)
            broken = service.searcher.unreadable(gallery, ready[0])
            shown = hits.search(found, gallery, told_as, broken)
        yield note + shown, gr.skip()


def _question(asked: Asked, gallery: Gallery) -> tuple[Any, str]:
    """Return what the models are asked, and how the page tells it."""
    kind, what = asked
    if kind == UPLOAD:
        picture = open_upload(what)
        mine = Gallery("query", (picture,), ("your picture",))
        return picture, hits.asked_picture(mine.thumbnail(0), "your picture")
    if kind == ROW:
        row = what[1]
        told_as = hits.asked_picture(gallery.thumbnail(row), gallery.captions[row])
        return gallery.picture(row), told_as
    text = check_text(what, "query")
    return text, hits.asked_text(text)


def _bring(service: DemoService, source: Any, *, paths: bool = False) -> Any:  # noqa: ANN401 - a handler for gradio
    def bring(request: gr.Request, *values: Any) -> tuple[str, Any]:  # noqa: ANN401
        try:
            if paths:
                check_paths(service, request)
            key = source(*(value or "" for value in values))
            return hits.gallery_line(service.galleries.get(key)), key
        except TinyClipError as error:
            return parts.problem(str(error)), gr.skip()

    return bring
