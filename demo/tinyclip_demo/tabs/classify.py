"""The Classify tab: one picture, a list of labels, every model's probabilities."""

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
    result_handler,
    template_input,
    waiting,
)
from tinyclip_demo.texts import BETWEEN_TEMPLATES, parse_labels, parse_templates
from tinyclip_demo.uploads import open_upload
from tinyclip_demo.view import bars, parts
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.confidence import Confidence

NAME = "classify"
START = "Pick an example, upload an image or use the camera."
GALLERY_NAMES = "Gallery names"
EXAMPLE_EDGE = 1024  # pixels: large photos of a folder are shown smaller


def classify_tab(service: DemoService, session: Session, page: gr.Blocks) -> None:
    """Build the tab and connect its events."""
    gallery = service.galleries.default
    examples = gallery.examples()
    example_images = [gallery.picture(at, EXAMPLE_EDGE) for at in examples]
    presets = _label_presets(service, examples)
    calibrated = _calibrated_lists(service)
    # In this order, the result comes right after the button on a phone.
    with gr.Row(elem_classes="tc-columns"):
        with gr.Column(elem_classes="tc-inputs"):
            image = picture_input(
                example_images[0] if example_images else None, "image", "Image", 236
            )
            pictures = html(bars.example_pictures(gallery, examples), "examples", CHOOSE)
            labels = gr.Textbox(
                ", ".join(next(iter(presets.values()))),
                label="Labels, separated by commas or line breaks",
                lines=2, max_lines=3, elem_id="labels",
            )  # fmt: skip
            button = gr.Button("Classify", variant="primary", elem_id="classify-button")
        with gr.Column(elem_classes="tc-answer"):
            result = html(parts.hint(START), "classified")
        with gr.Column(elem_classes="tc-more"):
            lists = html(parts.chips("Lists", [*presets, *calibrated]), "presets", CHOOSE)
            template = template_input(TEMPLATES[0], "template")

    respond_lines = _classify_handler(service)
    respond = result_handler(NAME)(respond_lines)

    @result_handler(NAME)
    def cleared() -> Iterator[str]:
        yield parts.hint(START)

    @result_handler(NAME)
    def choose(path: str | None, *values: Any) -> Iterator[str]:  # noqa: ANN401
        yield from respond_lines(path, *values) if path else [parts.hint(START)]

    @result_handler(NAME)
    def on_models_changed(tab: str, path: str | None, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        is_active = path and tab == NAME
        yield from respond_lines(path, *values) if is_active else [gr.skip()]

    inputs = [image, labels, template, session.selected]
    # Not image.change: it fires twice for an upload, and once more when the page opens.
    submit_events = [button.click, page.load, image.upload, labels.submit]
    gr.on(submit_events, respond, inputs, result, api_name="classify", **LAST)
    # The image is not an input here, because gradio 6.31 still sends the one just removed.
    image.clear(cleared, None, result, **QUIET)
    template.input(choose, inputs, result, **QUIET)
    session.selected.change(on_models_changed, [session.tab, *inputs], result, **QUIET)
    selection = pictures.click(picker(example_images), None, image, **EACH)
    selection.then(respond, inputs, result, **QUIET)
    texts = [(", ".join(names), gr.skip()) for names in presets.values()]
    texts += [(", ".join(each.labels), " | ".join(each.templates)) for each in calibrated.values()]
    selection = lists.click(picker(texts), None, [labels, template], **EACH)
    selection.then(choose, inputs, result, **QUIET)


def _classify_handler(service: DemoService) -> Handler:
    def answer(
        path: str | None, labels: str, template: str, names: Sequence[str] | None = None
    ) -> Iterator[str]:
        picture = open_upload(path)
        labels, template = labels or "", template or "{}"
        # Report invalid input before waiting for models.
        parse_labels(labels), parse_templates(template)
        for loaded, _settled in service.loaded_models(names):
            results = service.classify(picture, labels, template, loaded) if loaded else []
            classification = bars.classification(results) if results else ""
            yield waiting(service, names) + failures(service, names) + classification

    return answer


def _label_presets(service: DemoService, examples: Sequence[int]) -> dict[str, tuple[str, ...]]:
    gallery = service.galleries.default
    if not gallery.label_examples:
        return LABELS
    names = dict.fromkeys(gallery.captions[index] for index in examples)
    first, *other_names = LABELS
    remaining = {name: LABELS[name] for name in other_names}
    gallery_names = {GALLERY_NAMES: tuple(names)} if len(names) > 1 else {}
    return {first: LABELS[first], **gallery_names, **remaining}


def _calibrated_lists(service: DemoService) -> dict[str, Confidence]:
    """Return the labels and templates for which bundles can say "none of these"."""
    slots = zip(service.registry.names, service.registry.slots, strict=True)
    confidences = {f"Labels of {name}": slot.confidence for name, slot in slots}
    return {
        title: confidence
        for title, confidence in confidences.items()
        if confidence is not None and _can_be_typed(confidence)
    }


def _can_be_typed(confidence: Confidence) -> bool:
    """Whether labels and templates stay the same when typed into the tab's fields."""
    try:
        labels = parse_labels(", ".join(confidence.labels))
        templates = parse_templates(BETWEEN_TEMPLATES.join(confidence.templates))
    except DataError:
        return False
    return confidence.covers(labels, templates)
