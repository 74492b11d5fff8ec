"""The Measure tab: latency and accuracy on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.figures import BATCHES, ROUNDS, MeasureReport, MeasureSettings
from tinyclip_demo.host import host_facts
from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs.wiring import (
    LAST,
    QUIET,
    Handler,
    Session,
    failures,
    html,
    result_handler,
    waiting,
)
from tinyclip_demo.view import parts, speed
from tinyclip_edge.runtime.cpu import core_count

NAME = "measure"
START = (
    "The selected models are timed on this machine in interleaved rounds, while nothing else runs."
)


def measure_tab(service: DemoService, session: Session, tab: gr.Tab) -> None:
    """Build the tab and connect its events; it measures when first opened."""
    has_results = gr.State(False)
    with gr.Row(elem_classes="tc-query tc-settings", equal_height=True):
        threads = gr.Dropdown(
            list(range(1, core_count() + 1)), value=1, label="Threads", min_width=80,
            elem_id="threads",
        )  # fmt: skip
        batch = gr.Dropdown(list(BATCHES), value=1, label="Batch", min_width=80, elem_id="batch")
        rounds = gr.Dropdown(
            list(ROUNDS), value=ROUNDS[1], label="Rounds", min_width=80, elem_id="rounds"
        )
        accuracy = gr.Checkbox(
            True, label="Recall@1", container=True, min_width=120, elem_id="accuracy"
        )
        button = gr.Button("Measure", variant="primary", min_width=130, elem_id="measure-button")
    result = html(parts.hint(START), "measured")
    with gr.Row(elem_classes="tc-downloads"):
        as_json = gr.DownloadButton(
            "Download JSON", interactive=False, size="md", elem_id="get-json"
        )
        as_csv = gr.DownloadButton("Download CSV", interactive=False, size="md", elem_id="get-csv")
    html(speed.host_line(host_facts()), "host")

    run = _measure_handler(service)

    @result_handler(NAME, 4)
    def on_opened(has_results: bool, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        *_, names, key = values
        stored = service.last_measurement(service.registry.numbers(names)) if key is None else None
        if has_results:
            yield _skipped()
        elif stored is not None:
            yield _shown(service, names, stored)
        else:
            yield from run(*values)

    inputs = [threads, batch, rounds, accuracy, session.selected, session.gallery]
    outputs = [result, as_json, as_csv, has_results]
    button.click(result_handler(NAME, 4)(run), inputs, outputs, api_name="measure", **LAST)
    tab.select(on_opened, [has_results, *inputs], outputs, **QUIET)


def _measure_handler(service: DemoService) -> Handler:
    def run(
        threads: int, batch: int, rounds: int, accuracy: bool,
        names: Sequence[str] | None = None, key: str | None = None,
    ) -> Iterator[Any]:  # fmt: skip
        disabled = (gr.DownloadButton(interactive=False), gr.DownloadButton(interactive=False))
        yield parts.bar("Measuring", 0.0, "waiting for its turn"), *disabled, True
        settings = MeasureSettings(int(threads), int(batch), int(rounds))
        pairs = service.galleries.get(key) if accuracy else None
        numbers: tuple[int, ...] = ()
        for numbers, is_settled in service.loaded_models(names):  # noqa: B007 - the last ones count
            if not is_settled:
                yield waiting(service, names), *disabled, True
        for update in service.measure(numbers, settings, pairs):
            if isinstance(update, MeasureReport):
                yield _shown(service, names, update)
            else:
                status = f"{update.share:.0%}, {update.activity}"
                yield parts.bar("Measuring", update.share, status), *_skipped()[1:]

    return run


def _shown(
    service: DemoService, names: Sequence[str] | None, report: MeasureReport
) -> tuple[Any, ...]:
    page = failures(service, names) + speed.measurement(report)
    return page, *_files(service, report), True


def _skipped() -> tuple[Any, ...]:
    return tuple(gr.skip() for _ in range(4))


def _files(service: DemoService, report: MeasureReport) -> list[Any]:
    contents = {"tinyclip-bench.json": report.as_json(), "tinyclip-bench.csv": report.as_csv()}
    buttons = []
    for name, content in contents.items():
        path = service.download(name)
        path.write_text(content, encoding="utf-8", newline="")
        buttons.append(gr.DownloadButton(value=str(path), interactive=True))
    return buttons
