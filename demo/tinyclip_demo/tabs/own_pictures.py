"""The Your pictures tab: do the models agree on a visitor's pictures and labels?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.presets import TEMPLATES
from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs.tailoring import budget_part, tailor_part
from tinyclip_demo.tabs.wiring import (
    LAST,
    QUIET,
    Handler,
    Session,
    failures,
    gallery_handler,
    html,
    result_handler,
    template_input,
    waiting,
)
from tinyclip_demo.texts import BETWEEN_TEMPLATES, parse_label_lines, parse_templates
from tinyclip_demo.uploads import open_text
from tinyclip_demo.view import hits, own_pictures, parts
from tinyclip_edge.errors import TinyClipError

NAME = "own-pictures"
COMPARING = "Comparing"
START = (
    "Drop pictures and enter labels: the selected models choose a label for every picture, and the "
    "page shows where they differ."
)
# Browsers list a dropped folder as one unreadable file. This collects the files inside it and
# passes them on as if the folder had been chosen.
FOLDERS = """document.addEventListener('drop', async event => {
  const zone = event.target.closest?.('#own-files');
  const entries = [...(event.dataTransfer?.items ?? [])].map(item => item.webkitGetAsEntry?.());
  const input = zone?.querySelector('input[type=file]');
  if (!input || !entries.some(entry => entry?.isDirectory)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  event.target.dispatchEvent(new DragEvent('dragleave', {bubbles: true}));
  const files = new DataTransfer();
  const add = async entry => {
    if (entry.isFile) files.items.add(await new Promise((done, no) => entry.file(done, no)));
    if (!entry.isDirectory) return;
    const reader = entry.createReader();
    const next = () => new Promise((done, no) => reader.readEntries(done, no));
    for (let some = await next(); some.length; some = await next()) {
      for (const each of some) await add(each);
    }
  };
  for (const entry of entries) if (entry) await add(entry);
  input.files = files.files;
  input.dispatchEvent(new Event('change', {bubbles: true}));
}, true);"""


def own_pictures_tab(service: DemoService, session: Session, tab: gr.Tab) -> None:
    """Build the tab and connect its events."""
    key, has_results = gr.State(None), gr.State(False)
    with gr.Row(elem_classes="tc-columns"):
        with gr.Column(elem_classes="tc-inputs"):
            _picture_inputs(service, key)
            labels, template = _label_inputs(service)
            button = gr.Button("Compare", variant="primary", elem_id="own-button")
        with gr.Column(elem_classes="tc-answer"):
            result = html(parts.hint(START), "own-compared")
        with gr.Column(elem_classes="tc-more"):
            tailor_part(service, (key, labels, template, session.selected))
    budget_part(service, tab)
    html("", "own-folders", FOLDERS)

    compare = _compare_handler(service)
    inputs, outputs = [key, labels, template, session.selected], [result, has_results]

    @result_handler(NAME, 2)
    def on_models_changed(has_results: bool, active_tab: str, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        is_active = has_results and active_tab == NAME
        yield from compare(*values) if is_active else [(gr.skip(), gr.skip())]

    button.click(result_handler(NAME, 2)(compare), inputs, outputs, api_name="compare", **LAST)
    session.selected.change(
        on_models_changed, [has_results, session.tab, *inputs], outputs, **QUIET
    )


def _picture_inputs(service: DemoService, key: gr.State) -> None:
    """Build the inputs for pictures; ``key`` receives the key of their gallery."""
    default = service.galleries.default
    first_line = "" if default.folder is None else hits.gallery_line(default, COMPARING)
    files = gr.File(
        label="Drop a folder or pictures", file_count="directory", height=150, elem_id="own-files"
    )
    chosen = gr.UploadButton(
        "Choose pictures", file_count="multiple", file_types=["image"], size="md",
        elem_id="own-chosen",
    )  # fmt: skip
    with gr.Row(elem_classes="tc-query", equal_height=True, visible=service.paths):
        folder = gr.Textbox(
            label="… or enter a folder on this machine", max_lines=1, scale=4, min_width=150,
            elem_id="own-folder",
        )  # fmt: skip
        button = gr.Button("Open", scale=1, min_width=80, elem_id="own-open")
    line = html(first_line, "own-gallery")
    outputs = [line, key]
    drop = gallery_handler(service, service.galleries.drop, COMPARING)
    open_folder = gallery_handler(service, service.galleries.open_folder, COMPARING, paths=True)
    files.upload(drop, files, outputs, **QUIET)
    chosen.upload(drop, chosen, outputs, **QUIET)
    gr.on([button.click, folder.submit], open_folder, folder, outputs, **QUIET)
    files.clear(lambda: (first_line, None), None, outputs, **QUIET)


def _label_inputs(service: DemoService) -> tuple[gr.Textbox, gr.Dropdown]:
    """Build the fields for labels and prompts, and the upload of a label file."""
    first_labels, first_template = _first_labels(service)
    labels = gr.Textbox(
        first_labels, label="Labels, one per line", placeholder="red bus\nbicycle\ntram", lines=4,
        max_lines=10, elem_id="own-labels",
    )  # fmt: skip
    file = gr.UploadButton(
        "Labels from a file", file_types=[".txt"], size="md", elem_id="own-labels-file"
    )
    note = html("", "own-labels-note")
    file.upload(_read_labels, file, [note, labels], **QUIET)
    return labels, template_input(first_template, "own-template")


def _first_labels(service: DemoService) -> tuple[str, str]:
    """Return the labels and templates to start with: those that a bundle was calibrated for."""
    for slot in service.registry.slots:
        if slot.confidence is not None:
            templates = f" {BETWEEN_TEMPLATES} ".join(slot.confidence.templates)
            return "\n".join(slot.confidence.labels), templates
    return "", TEMPLATES[0]


def _read_labels(path: str | None) -> tuple[Any, Any]:
    try:
        return "", "\n".join(parse_label_lines(open_text(path or "")))
    except TinyClipError as error:
        return parts.problem(str(error)), gr.skip()


def _compare_handler(service: DemoService) -> Handler:
    def compare(
        key: str | None, labels: str, template: str, names: Sequence[str] | None = None
    ) -> Iterator[Any]:
        # Report invalid input before waiting for models.
        gallery = service.galleries.own(key)
        label_names, templates = parse_label_lines(labels or ""), parse_templates(template or "{}")
        numbers: tuple[int, ...] = ()
        for numbers, is_settled in service.loaded_models(names):  # noqa: B007 - the last ones count
            if not is_settled:
                yield waiting(service, names), gr.skip()
        for step in service.searcher.indexing(gallery, numbers):
            yield hits.indexing(step, service.registry.names, numbers), gr.skip()
        compared = service.comparer.compare(gallery, label_names, templates, numbers)
        yield failures(service, names) + own_pictures.comparison(compared, gallery), True

    return compare
