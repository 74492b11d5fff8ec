"""One picture, a list of labels, every model's answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.presets import LABELS, TEMPLATES
from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs.wiring import (
    CHOOSE,
    EACH,
    LAST,
    QUIET,
    Handler,
    Session,
    failures,
    html,
    picker,
    picture_input,
    told,
    waiting,
)
from tinyclip_demo.texts import parse_labels, parse_templates
from tinyclip_demo.uploads import open_upload
from tinyclip_demo.view import bars, parts

NAME = "classify"
START = "Pick an example, upload an image or use the camera."
GALLERY_NAMES = "Gallery names"
EXAMPLE_EDGE = 1024  # pixels: large photos of a folder are shown smaller


def classify_tab(service: DemoService, session: Session, page: gr.Blocks) -> None:
    """Lay out the tab and wire it."""
    gallery = service.galleries.own
    examples = gallery.examples()
    offered = [gallery.picture(at, EXAMPLE_EDGE) for at in examples]
    presets = _label_presets(service, examples)
    with gr.Row(elem_classes="tc-columns"):
        with gr.Column(scale=4, min_width=300):
            image = picture_input(offered[0] if offered else None, "image", "Image", 236)
            pictures = html(bars.example_pictures(gallery, examples), "examples", CHOOSE)
            labels = gr.Textbox(
                ", ".join(next(iter(presets.values()))), label="Labels, by comma or line",
                lines=3, max_lines=6, elem_id="labels",
            )  # fmt: skip
            lists = html(parts.chips("Lists", list(presets)), "presets", CHOOSE)
            template = gr.Dropdown(
                list(TEMPLATES), value=TEMPLATES[0],
                label="Prompt: {} is the label, | separates several that are averaged",
                allow_custom_value=True, elem_id="template",
            )  # fmt: skip
            button = gr.Button("Classify", variant="primary", elem_id="classify-button")
        with gr.Column(scale=8, min_width=300):
            result = html(parts.hint(START), "classified")

    answers = _answers(service)
    answer = told(NAME)(answers)

    @told(NAME)
    def choose(path: str | None, *values: Any) -> Iterator[str]:  # noqa: ANN401
        yield from answers(path, *values) if path else [parts.hint(START)]

    @told(NAME)
    def rechosen(tab: str, path: str | None, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        there = path and tab == NAME
        yield from answers(path, *values) if there else [gr.skip()]

    inputs = [image, labels, template, session.chosen]
    # Not image.change: it fires twice for an upload, and once more when the page opens.
    asked = [button.click, page.load, image.upload, labels.submit]
    gr.on(asked, answer, inputs, result, api_name="classify", **LAST)
    gr.on([image.clear, template.input], choose, inputs, result, **QUIET)
    session.chosen.change(rechosen, [session.tab, *inputs], result, **QUIET)
    chosen = pictures.click(picker(offered), None, image, **EACH)
    chosen.then(answer, inputs, result, **QUIET)
    lists_as_text = [", ".join(names) for names in presets.values()]
    chosen = lists.click(picker(lists_as_text), None, labels, **EACH)
    chosen.then(choose, inputs, result, **QUIET)


def _answers(service: DemoService) -> Handler:
    def answer(
        path: str | None, labels: str, template: str, names: Sequence[str] | None = None
    ) -> Iterator[str]:
        picture = open_upload(path)
        labels, template = labels or "", template or "{}"
        # Before any model is waited for.
        parse_labels(labels), parse_templates(template)
        for ready, _settled in service.arriving(names):
            found = service.classify(picture, labels, template, ready) if ready else []
            shown = bars.classification(found) if found else ""
            yield waiting(service, names) + failures(service, names) + shown

    return answer


def _label_presets(service: DemoService, examples: Sequence[int]) -> dict[str, tuple[str, ...]]:
    gallery = service.galleries.own
    if not gallery.label_examples:
        return LABELS
    names = dict.fromkeys(gallery.captions[at] for at in examples)
    first, *others = LABELS
    rest = {name: LABELS[name] for name in others}
    own = {GALLERY_NAMES: tuple(names)} if len(names) > 1 else {}
    return {first: LABELS[first], **own, **rest}
