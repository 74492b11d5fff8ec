"""The Measure tab: latency and accuracy on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.figures import BATCHES, ROUNDS, MeasureReport, MeasureSettings
from tinyclip_demo.host import core_count, host_facts
from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs.wiring import LAST, Session, failures, html, result_handler, waiting
from tinyclip_demo.view import parts, speed

NAME = "measure"
START = (
    "The selected models are timed on this machine in interleaved rounds, while nothing else runs."
)


def measure_tab(service: DemoService, session: Session) -> None:
    """Build the tab and connect its events."""
    with gr.Row(elem_classes="tc-query", equal_height=True):
        threads = gr.Dropdown(
            list(range(1, core_count() + 1)), value=1, label="Threads", min_width=116,
            elem_id="threads",
        )  # fmt: skip
        batch = gr.Dropdown(
            list(BATCHES), value=1, label="Images per batch", min_width=116, elem_id="batch"
        )
        rounds = gr.Dropdown(
            list(ROUNDS), value=ROUNDS[1], label="Rounds", min_width=116, elem_id="rounds"
        )
        accuracy = gr.Checkbox(
            True, label="Recall@1 too", container=True, min_width=150, elem_id="accuracy"
        )
        button = gr.Button("Measure", variant="primary", min_width=130, elem_id="measure-button")
    result = html(parts.hint(START), "measured")
    with gr.Row(elem_classes="tc-downloads"):
        as_json = gr.DownloadButton(
            "Download JSON", interactive=False, size="md", elem_id="get-json"
        )
        as_csv = gr.DownloadButton("Download CSV", interactive=False, size="md", elem_id="get-csv")
    html(speed.host_line(host_facts()), "host")

    @result_handler(NAME, 3)
    def run(
        threads: int, batch: int, rounds: int, accuracy: bool,
        names: Sequence[str] | None = None, key: str | None = None,
    ) -> Iterator[Any]:  # fmt: skip
        yield parts.bar("Measuring", 0.0, "waiting for its turn"), *_disabled_downloads()
        settings = MeasureSettings(int(threads), int(batch), int(rounds))
        pairs = service.galleries.get(key) if accuracy else None
        numbers: tuple[int, ...] = ()
        for numbers, is_settled in service.loaded_models(names):  # noqa: B007 - the last ones count
            if not is_settled:
                yield waiting(service, names), *_disabled_downloads()
        for update in service.measure(numbers, settings, pairs):
            if isinstance(update, MeasureReport):
                report_html = failures(service, names) + speed.measurement(update)
                yield report_html, *_files(service, update)
            else:
                status = f"{update.share:.0%}, {update.activity}"
                yield parts.bar("Measuring", update.share, status), gr.skip(), gr.skip()

    inputs = [threads, batch, rounds, accuracy, session.selected, session.gallery]
    button.click(run, inputs, [result, as_json, as_csv], api_name="measure", **LAST)


def _disabled_downloads() -> tuple[Any, Any]:
    return gr.DownloadButton(interactive=False), gr.DownloadButton(interactive=False)


def _files(service: DemoService, report: MeasureReport) -> list[Any]:
    contents = {"tinyclip-bench.json": report.as_json(), "tinyclip-bench.csv": report.as_csv()}
    buttons = []
    for name, content in contents.items():
        path = service.download(name)
        path.write_text(content, encoding="utf-8", newline="")
        buttons.append(gr.DownloadButton(value=str(path), interactive=True))
    return buttons
