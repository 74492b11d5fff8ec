"""Parts of the Your pictures tab: the ``tailor`` command, and plots of its finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs.wiring import QUIET, html, may_open_paths
from tinyclip_demo.tailor_command import (
    BUDGET,
    DEFAULTS,
    FOLDER,
    LABELS_FILE,
    compared_models,
    tailor_command,
)
from tinyclip_demo.texts import parse_label_lines, parse_templates
from tinyclip_demo.view import parts, tailored
from tinyclip_edge.errors import DataError, TinyClipError
from tinyclip_edge.tailoring.report import TailorReport
from tinyclip_edge.tailoring.work import REPORT, WorkFolder
from tinyclip_edge.train.preflight.finding import MIN_IMAGES

NO_RUN = "No finished run of tinyclip-edge tailor yet; its plot will appear here."
FIELDS = ("At most MB", "At most ms", "Minutes")


def tailor_part(service: DemoService, inputs: Sequence[Any]) -> None:
    """Build the budget's fields and the button that prints the command.

    ``inputs``: key of the gallery, labels, template, selected models.
    """
    with gr.Row(elem_id="budget"):
        fields = [
            gr.Number(
                DEFAULTS[name],
                label=label,
                min_width=80,
                step=0.5,
                elem_id=name.replace("_", "-"),
            )
            for name, label in zip(BUDGET, FIELDS, strict=True)
        ]
    button = gr.Button("Tailor this", elem_id="tailor-button")
    note = html("", "tailor-note")
    command = gr.Textbox(
        label="Run it where the pictures are", lines=3, max_lines=12, interactive=False,
        visible=False, buttons=["copy"], elem_id="tailor-command",
    )  # fmt: skip
    labels_file = gr.DownloadButton(
        f"Download {LABELS_FILE}", visible=False, size="md", elem_id="get-labels"
    )

    def tailor(
        request: gr.Request, key: str | None, labels: str, template: str,
        names: Sequence[str] | None, *budget: float | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        try:
            label_names = parse_label_lines(labels or "")
            templates = parse_templates(template or "{}")
            gallery = service.galleries.own(key)
            slots = [service.registry.slots[i] for i in service.registry.numbers(names)]
            teacher, general = compared_models(slots, paths=may_open_paths(service, request))
            line = tailor_command(
                gallery.folder,
                label_names,
                templates,
                {name: value or 0.0 for name, value in zip(BUDGET, budget, strict=True)},
                teacher=teacher,
                general=general,
            )
        except TinyClipError as error:
            hidden = gr.update(visible=False)
            return parts.problem(str(error)), hidden, hidden
        path = service.download(LABELS_FILE)
        path.write_text("".join(f"{label}\n" for label in label_names), encoding="utf-8")
        notes = [f"Save {LABELS_FILE} where you run it."]
        if gallery.folder is None:
            notes.append(f"Replace {FOLDER} with the path of your folder.")
        if len(gallery) < MIN_IMAGES:
            notes.append(f"It needs at least {MIN_IMAGES} pictures; these are {len(gallery):,}.")
        return (
            parts.hint(" ".join(notes)),
            gr.Textbox(value=line, visible=True),
            gr.DownloadButton(value=str(path), visible=True),
        )

    button.click(tailor, [*inputs, *fields], [note, command, labels_file], **QUIET)


def budget_part(service: DemoService, tab: gr.Tab) -> None:
    """Build the plots of finished runs, for visitors who may open paths of this machine."""
    runs = gr.Dropdown([], label="Finished runs", visible=False, elem_id="tailored-runs")
    result = html("", "tailored")

    def refresh(request: gr.Request, chosen: str | None) -> tuple[Any, Any]:
        if not may_open_paths(service, request):
            return gr.skip(), gr.skip()
        names = [folder.path.name for folder in WorkFolder.finished(service.runs)]
        name = chosen if chosen in names else next(iter(names), None)
        choices = gr.Dropdown(names, value=name, visible=len(names) > 1)
        return choices, _shown(service, name)

    def show(request: gr.Request, chosen: str | None) -> Any:  # noqa: ANN401
        return _shown(service, chosen) if may_open_paths(service, request) else gr.skip()

    tab.select(refresh, runs, [runs, result], **QUIET)
    runs.input(show, runs, result, **QUIET)


def _shown(service: DemoService, name: str | None) -> str:
    """Return the plots of a run, or why there are none."""
    if name is None:
        return parts.hint(NO_RUN)
    # Names that a visitor sends are looked up, never joined to a path.
    folders = {folder.path.name: folder for folder in WorkFolder.finished(service.runs)}
    try:
        report = folders[name].parsed(REPORT, TailorReport.from_dict) if name in folders else None
        if report is None:
            raise DataError(f"no finished tailor run {name!r}")
        with service.lock:  # matplotlib's settings are global
            return tailored.budget(report)
    except TinyClipError as error:
        return parts.problem(str(error))
    except ImportError:
        return parts.problem("the plots need matplotlib: pip install 'tinyclip-edge[distill]'")
