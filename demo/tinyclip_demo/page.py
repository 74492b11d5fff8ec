"""Layout and wiring of the page; the only module, with the theme, that imports gradio."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import gradio as gr
from gradio.data_classes import FileData
from PIL import Image

from tinyclip_demo import render
from tinyclip_demo.presets import LABELS, QUERIES, TEMPLATES
from tinyclip_demo.service import DemoService, check_text
from tinyclip_edge.errors import DataError, TinyClipError

# One listener for a whole row of buttons: the event says which of them was meant.
CHOOSE = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-at]');
  if (button) trigger('click', {at: Number(button.dataset.at)});
});"""
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
Choice = TypeVar("Choice")
START = "Pick an example or upload an image."
GALLERY_NAMES = "Gallery names"
CACHE_SECONDS = 3600
EXAMPLE_EDGE = 1024  # pixels: large photos of a folder are shown smaller


def build_page(service: DemoService) -> gr.Blocks:
    """Header, Classify and Search."""
    with gr.Blocks(
        title="tinyclip-edge demo",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
    ) as page:
        _html(render.header(service.names, service.models, service.gallery), "head")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Classify", id="classify"):
                _classify_tab(service, page)
            with gr.Tab("Search", id="search") as tab:
                _search_tab(service, tab)
    return page


def _classify_tab(service: DemoService, page: gr.Blocks) -> None:
    gallery = service.gallery
    examples = gallery.examples()
    offered = [gallery.picture(at, EXAMPLE_EDGE) for at in examples]
    presets = _label_presets(service, examples)
    with gr.Row(elem_classes="tc-columns"):
        with gr.Column(scale=4, min_width=300):
            image = _image_input(offered[0] if offered else None)
            pictures = _html(render.example_pictures(gallery, examples), "examples", CHOOSE)
            labels = gr.Textbox(
                ", ".join(next(iter(presets.values()))), label="Labels, by comma or line",
                lines=3, max_lines=12, elem_id="labels",
            )  # fmt: skip
            lists = _html(render.chips("Lists", list(presets)), "presets", CHOOSE)
            template = gr.Dropdown(
                list(TEMPLATES), value=TEMPLATES[0], label="Prompt, {} is the label",
                allow_custom_value=True, elem_id="template",
            )  # fmt: skip
            button = gr.Button("Classify", variant="primary", elem_id="classify-button")
        with gr.Column(scale=8, min_width=300):
            result = _html(render.hint(START), "classified")

    @_answered
    def classify(path: str | None, text: str, prompt: str) -> str:
        found = service.classify(_content(path), text or "", prompt or "{}")
        return render.classification(found, service.models)

    def choose(path: str | None, text: str, prompt: str) -> str:
        return classify(path, text, prompt) if path else render.hint(START)

    inputs = [image, labels, template]
    button.click(classify, inputs, result, api_name="classify", show_progress="hidden")
    # Not image.change: it fires twice for an upload, and once more when the page opens.
    gr.on([page.load, image.upload, labels.submit], classify, inputs, result, **QUIET)
    gr.on([image.clear, template.input], choose, inputs, result, **QUIET)
    chosen = pictures.click(_picker(offered), None, image, **QUIET)
    chosen.then(classify, inputs, result, **QUIET)
    lists_as_text = [", ".join(names) for names in presets.values()]
    chosen = lists.click(_picker(lists_as_text), None, labels, **QUIET)
    chosen.then(choose, inputs, result, **QUIET)


def _image_input(picture: Image.Image | None) -> gr.Image:
    image = gr.Image(
        picture, label="Image", sources=["upload", "clipboard"], height=236, buttons=[],
        elem_id="image", format="png",
    )  # fmt: skip
    # gradio would open the file and fail without a word to the user; the service explains.
    # Not a subclass: gradio writes a .pyi beside the source of every one.
    image.preprocess = _unopened
    return image


def _search_tab(service: DemoService, tab: gr.Tab) -> None:
    with gr.Row(elem_classes="tc-query", equal_height=True):
        query = gr.Textbox(
            QUERIES[0], label="Describe a picture", scale=8, min_width=220, max_lines=1,
            elem_id="query",
        )  # fmt: skip
        count = gr.Dropdown(
            [5, 10, 20], value=10, label="Pictures", scale=1, min_width=90, elem_id="count"
        )
        button = gr.Button(
            "Search", variant="primary", scale=1, min_width=110, elem_id="search-button"
        )
    ideas = _html(render.chips("Try", QUERIES), "ideas", CHOOSE)
    result = _html(render.hint("The gallery is encoded at the first search."), "found")

    def search(text: str, k: int) -> Iterator[str]:
        try:
            check_text(text or "", "query")
            for step in service.indexing():
                yield render.progress(step, service.names)
            found = service.search(text, int(k))
            yield render.search(found, service.gallery, service.unreadable)
        except TinyClipError as error:
            yield render.problem(str(error))

    inputs = [query, count]
    button.click(search, inputs, result, api_name="search", show_progress="hidden")
    query.submit(search, inputs, result, **QUIET)
    count.input(search, inputs, result, **QUIET)
    tab.select(search, inputs, result, **QUIET)
    ideas.click(_picker(QUERIES), None, query, **QUIET).then(search, inputs, result, **QUIET)


def _label_presets(service: DemoService, examples: tuple[int, ...]) -> dict[str, tuple[str, ...]]:
    if not service.gallery.label_examples:
        return LABELS
    names = dict.fromkeys(service.gallery.captions[at] for at in examples)
    return {GALLERY_NAMES: tuple(names), **LABELS} if len(names) > 1 else LABELS


def _answered(work: Callable[..., str]) -> Callable[..., str]:
    """Turn what the user can mend into a note on the page."""

    @functools.wraps(work)
    def answer(*values: object) -> str:
        try:
            return work(*values)
        except TinyClipError as error:
            return render.problem(str(error))

    return answer


def _picker(values: Sequence[Choice]) -> Callable[[gr.EventData], Choice]:
    def pick(event: gr.EventData) -> Choice:
        at = event.at
        if not isinstance(at, int) or not 0 <= at < len(values):
            raise DataError(f"no choice {at!r}")
        return values[at]

    return pick


def _content(path: str | None) -> bytes | None:
    # Bytes, so that messages do not name the server's temporary file.
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise DataError("the upload is gone: upload it again") from error


def _unopened(upload: FileData | None) -> str | None:
    return str(upload.path) if upload is not None and upload.path else None


def _html(value: str, name: str, script: str | None = None) -> gr.HTML:
    return gr.HTML(
        value, elem_id=name, elem_classes="tc-html", js_on_load=script, apply_default_css=False
    )
