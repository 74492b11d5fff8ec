"""Where the models differ most, and that slice as a shard to train or calibrate on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.disagree import ORDERS, Mined
from tinyclip_demo.service import DemoService
from tinyclip_demo.shard import write_shard
from tinyclip_demo.tabs.wiring import LAST, QUIET, Session, failures, html, told, waiting
from tinyclip_demo.view import hits, pairs, parts

NAME = "disagreements"
COUNTS = (10, 25, 50, 100)
START = (
    "Every picture is put to the chosen models with all captions of the gallery as labels; "
    "the pairs on which they differ most come first."
)


def disagreements_tab(service: DemoService, session: Session) -> None:
    """Lay out the tab and wire it."""
    mined_once = gr.State(False)
    with gr.Row(elem_classes="tc-query", equal_height=True):
        order = gr.Dropdown(
            list(ORDERS), value=ORDERS[0], label="Sort by", scale=4, min_width=220, elem_id="order"
        )
        count = gr.Dropdown(
            list(COUNTS), value=COUNTS[0], label="Pairs", scale=1, min_width=90, elem_id="pairs"
        )
        button = gr.Button(
            "Find them", variant="primary", scale=1, min_width=130, elem_id="mine-button"
        )
        shard = gr.DownloadButton(
            "Export shard (.tar)", scale=1, min_width=190, interactive=False, elem_id="get-shard"
        )
    result = html(parts.hint(START), "mined")

    def mine(
        order: str, count: int, names: Sequence[str] | None = None, key: str | None = None
    ) -> Iterator[Any]:
        gallery = service.galleries.get(key)
        yield parts.hint("Waiting for its turn …"), gr.DownloadButton(interactive=False), True
        numbers: tuple[int, ...] = ()
        for numbers, settled in service.arriving(names):  # noqa: B007 - the last ones count
            if not settled:
                yield waiting(service, names), gr.skip(), gr.skip()
        for step in service.searcher.indexing(gallery, numbers):
            yield hits.indexing(step, service.shelf.names, numbers), gr.skip(), gr.skip()
        for found in service.miner.mine(gallery, numbers):
            if not isinstance(found, Mined):
                yield parts.bar(found.doing, found.share, f"{found.share:.0%}"), gr.skip(), True
                continue
            top = found.top(order, int(count))
            file: Any = gr.DownloadButton(interactive=False)
            if top:
                path = service.download("disagreements.tar")
                file = gr.DownloadButton(
                    value=str(write_shard(path, gallery, top, found.names)), interactive=True
                )
            shown = pairs.disagreements(found, top, gallery, order)
            yield failures(service, names) + shown, file, True

    @told(NAME, 3)
    def rechosen(again: bool, where: str, *values: Any) -> Iterator[Any]:  # noqa: ANN401
        there = again and where == NAME
        yield from mine(*values) if there else [(gr.skip(), gr.skip(), gr.skip())]

    inputs = [order, count, session.chosen, session.gallery]
    outputs = [result, shard, mined_once]
    button.click(told(NAME, 3)(mine), inputs, outputs, api_name="disagreements", **LAST)
    sorted_anew = [order.input, count.input, session.chosen.change]
    gr.on(sorted_anew, rechosen, [mined_once, session.tab, *inputs], outputs, **QUIET)
