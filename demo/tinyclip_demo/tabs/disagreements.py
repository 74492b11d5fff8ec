"""The Disagreements tab: pairs on which the models differ most, and their export as a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.disagree import ORDERS, MiningResult
from tinyclip_demo.service import DemoService
from tinyclip_demo.shard import write_shard
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
from tinyclip_demo.view import hits, pairs, parts

NAME = "disagreements"
COUNTS = (10, 25, 50, 100)
START = (
    "The selected models classify every picture, with all captions of the gallery as labels; "
    "the pairs on which they differ most come first."
)


def disagreements_tab(service: DemoService, session: Session, tab: gr.Tab) -> None:
    """Build the tab and connect its events; opening it shows results."""
    has_results = gr.State(False)
    with gr.Row(elem_classes="tc-query", equal_height=True):
        order = gr.Dropdown(
            list(ORDERS), value=ORDERS[0], label="Sort by", scale=4, min_width=220, elem_id="order"
        )
        count = gr.Dropdown(
            list(COUNTS), value=COUNTS[0], label="Pairs", scale=1, min_width=116, elem_id="pairs"
        )
        button = gr.Button(
            "Find them", variant="primary", scale=1, min_width=130, elem_id="mine-button"
        )
        shard = gr.DownloadButton(
            "Export shard (.tar)", scale=1, min_width=190, interactive=False, elem_id="get-shard"
        )
    result = html(parts.hint(START), "mined")

    mine = _mining_handler(service)

    @result_handler(NAME, 3)
    def on_settings_changed(has_results: bool, active_tab: str, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        is_active = has_results and active_tab == NAME
        yield from mine(*values) if is_active else [(gr.skip(), gr.skip(), gr.skip())]

    @result_handler(NAME, 3)
    def on_opened(*values: Any) -> Iterator[Any]:  # noqa: ANN401
        if len(service.registry.numbers(values[2])) > 1:
            yield from mine(*values)  # cached results appear at once
        else:
            yield parts.hint(f"{START} Tick at least two models."), gr.skip(), gr.skip()

    inputs = [order, count, session.selected, session.gallery]
    outputs = [result, shard, has_results]
    button.click(result_handler(NAME, 3)(mine), inputs, outputs, api_name="disagreements", **LAST)
    tab.select(on_opened, inputs, outputs, **QUIET)
    setting_events = [order.input, count.input, session.selected.change]
    gr.on(
        setting_events, on_settings_changed, [has_results, session.tab, *inputs], outputs, **QUIET
    )


def _mining_handler(service: DemoService) -> Handler:
    def mine(
        order: str, count: int, names: Sequence[str] | None = None, key: str | None = None
    ) -> Iterator[Any]:
        gallery = service.galleries.get(key)
        if not service.miner.has_mined(gallery, service.registry.numbers(names)):
            yield parts.hint("Waiting …"), gr.DownloadButton(interactive=False), True
        numbers: tuple[int, ...] = ()
        for numbers, is_settled in service.loaded_models(names):  # noqa: B007 - the last ones count
            if not is_settled:
                yield waiting(service, names), gr.skip(), gr.skip()
        for step in service.searcher.indexing(gallery, numbers):
            yield hits.indexing(step, service.registry.names, numbers), gr.skip(), gr.skip()
        for update in service.miner.mine(gallery, numbers):
            if not isinstance(update, MiningResult):
                yield (
                    parts.bar(update.activity, update.share, f"{update.share:.0%}"),
                    gr.skip(),
                    True,
                )
                continue
            top = update.top(order, int(count))
            file: Any = gr.DownloadButton(interactive=False)
            if top:
                path = service.download("disagreements.tar")
                file = gr.DownloadButton(
                    value=str(write_shard(path, gallery, top, update.names)), interactive=True
                )
            table = pairs.disagreements(update, top, gallery, order)
            yield failures(service, names) + table, file, True

    return mine
