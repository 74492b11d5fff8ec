"""The Search tab: a text or picture as query, every model's nearest pictures."""

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
    clicked_index,
    failures,
    gallery_handler,
    html,
    picker,
    picture_input,
    result_handler,
    waiting,
)
from tinyclip_demo.texts import check_text
from tinyclip_demo.uploads import open_upload
from tinyclip_demo.view import hits, parts

NAME = "search"
COUNTS = (5, 10, 20)
START = "The pictures are encoded on the first search."
TEXT, UPLOAD, ROW = "text", "upload", "row"  # kinds of queries
Query = tuple[str, Any]


def search_tab(service: DemoService, session: Session, tab: gr.Tab) -> None:
    """Build the tab and connect its events."""
    last_query = gr.State((TEXT, QUERIES[0]))
    with gr.Row(elem_classes="tc-query", equal_height=True):
        query = gr.Textbox(
            QUERIES[0], label="Describe a picture", scale=8, min_width=220, max_lines=1,
            elem_id="query",
        )  # fmt: skip
        count = gr.Dropdown(
            list(COUNTS), value=10, label="Pictures", scale=1, min_width=116, elem_id="count"
        )
        button = gr.Button(
            "Search", variant="primary", scale=1, min_width=110, elem_id="search-button"
        )
    ideas = html(parts.chips("Try", QUERIES), "ideas", CHOOSE)
    accordion = gr.Accordion("Search by picture, or in your own pictures", open=False)
    with accordion, gr.Row(elem_id="own-pictures"):
        image = picture_input(None, "query-image", "Find pictures like this one", 190)
        uploads = gr.File(
                label="Drop pictures to search here", file_count="multiple",
                file_types=["image"], height=190, elem_id="dropped",
            )  # fmt: skip
        with gr.Column(min_width=220):
            folder = gr.Textbox(
                    label="… or enter a folder on this machine", max_lines=1, elem_id="folder",
                    visible=service.paths,
                )  # fmt: skip
            open_button = gr.Button("Open folder", elem_id="open-folder", visible=service.paths)
            default_button = gr.Button("Back to the initial pictures", elem_id="own-gallery")
    gallery_line = html(hits.gallery_line(service.galleries.default), "gallery")
    result = html(parts.hint(START), "found", CHOOSE)

    settings = [count, session.selected, session.gallery]
    _wire_queries(
        service,
        (query, button, ideas, image, count),
        (tab, session, settings),
        (result, last_query),
    )
    repeat_search = _repeat_handler(service)
    gallery_outputs = [gallery_line, session.gallery]
    open_folder = gallery_handler(service, service.galleries.open_folder, paths=True)
    for change_gallery, event, values in (
        (gallery_handler(service, service.galleries.drop), uploads.upload, [uploads]),
        (open_folder, open_button.click, [folder]),
        (open_folder, folder.submit, [folder]),
        (gallery_handler(service, lambda: None), default_button.click, []),
    ):
        changed = event(change_gallery, values, gallery_outputs, **QUIET)
        changed.success(repeat_search, [last_query, *settings], [result, last_query], **QUIET)


def _wire_queries(
    service: DemoService,
    controls: tuple[Any, ...],
    surroundings: tuple[gr.Tab, Session, list[Any]],
    outputs: tuple[gr.HTML, gr.State],
) -> None:
    query, button, ideas, image, count = controls
    tab, session, settings = surroundings
    result, last_query = outputs
    result_outputs = [result, last_query]

    @result_handler(NAME, 2)
    def by_text(
        text: str, k: int, names: Sequence[str] | None = None, key: str | None = None
    ) -> Iterator[Any]:
        yield from _search(service, (TEXT, text or ""), (k, names, key))

    @result_handler(NAME, 2)
    def by_upload(path: str | None, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        yield from _search(service, (UPLOAD, path), values)

    @result_handler(NAME, 2)
    def by_row(row: int, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        yield from _search(service, (ROW, (values[2], row)), values)

    def clicked(event: gr.EventData, request: gr.Request, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        row = clicked_index(event, len(service.galleries.get(values[2])))
        yield from by_row(request, row, *values)

    @result_handler(NAME, 2)
    def on_models_changed(active_tab: str, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        is_active = active_tab == NAME
        yield from _repeat_search(service, *values) if is_active else [(gr.skip(), gr.skip())]

    submit_events = [button.click, query.submit]
    gr.on(submit_events, by_text, [query, *settings], result_outputs, api_name="search", **LAST)
    ideas.click(picker(QUERIES), None, query, **EACH).then(
        by_text, [query, *settings], result_outputs, **QUIET
    )
    image.upload(by_upload, [image, *settings], result_outputs, **QUIET)
    repeat_search = _repeat_handler(service)
    result.click(clicked, settings, result_outputs, **EACH)
    gr.on(
        [count.input, tab.select], repeat_search, [last_query, *settings], result_outputs, **QUIET
    )
    session.selected.change(
        on_models_changed, [session.tab, last_query, *settings], result_outputs, **QUIET
    )


def _repeat_handler(service: DemoService) -> Handler:
    @result_handler(NAME, 2)
    def repeat_search(*values: Any) -> Iterator[Any]:  # noqa: ANN401
        yield from _repeat_search(service, *values)

    return repeat_search


def _repeat_search(service: DemoService, query: Query, *values: Any) -> Iterator[Any]:  # noqa: ANN401
    kind, value = query
    # A row number is valid in its own gallery only.
    if kind == ROW and value[0] != values[2]:
        query = (TEXT, QUERIES[0])
    yield from _search(service, query, values)


def _search(service: DemoService, query: Query, values: Sequence[Any]) -> Iterator[Any]:
    """Yield (HTML, query), with progress while the gallery is encoded."""
    k, names, key = values
    gallery = service.galleries.get(key)
    yield gr.skip(), query
    question, query_html = _resolve_query(query, gallery)
    for loaded, _settled in service.loaded_models(names):
        note = waiting(service, names) + failures(service, names)
        for step in service.searcher.indexing(gallery, loaded):
            yield note + hits.indexing(step, service.registry.names, loaded), gr.skip()
        results_html = ""
        if loaded:
            results = service.searcher.search(question, int(k), gallery, loaded)
            broken = service.searcher.unreadable(gallery, loaded[0])
            results_html = hits.search(results, gallery, query_html, broken)
        yield note + results_html, gr.skip()


def _resolve_query(query: Query, gallery: Gallery) -> tuple[Any, str]:
    """Return the query as the models' input, and as HTML."""
    kind, value = query
    if kind == UPLOAD:
        picture = open_upload(value)
        query_gallery = Gallery("query", (picture,), ("your picture",))
        return picture, hits.picture_query(query_gallery.thumbnail(0), "your picture")
    if kind == ROW:
        row = value[1]
        query_html = hits.picture_query(gallery.thumbnail(row), gallery.captions[row])
        return gallery.picture(row), query_html
    text = check_text(value, "query")
    return text, hits.text_query(text)
