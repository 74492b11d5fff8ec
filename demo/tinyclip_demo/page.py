"""The page: models above, tabs below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs import classify, disagreements, measure, search
from tinyclip_demo.tabs.wiring import EACH, QUIET, Session, check_paths, html
from tinyclip_demo.view import cards, parts
from tinyclip_edge.errors import TinyClipError

# The ticks of all cards at once: each open page has its own.
TICKED = """element.addEventListener('change', event => {
  if (!event.target.matches('input[data-name]')) return;
  const ticked = [...element.querySelectorAll('input[data-name]:checked')];
  trigger('click', {names: ticked.map(box => box.dataset.name)});
});"""
CACHE_SECONDS = 3600
LOOK_SECONDS = 0.7  # between two looks at how far loading is


def build_page(service: DemoService) -> gr.Blocks:
    """Lay out everything; models start loading when the first page opens."""
    with gr.Blocks(
        title="tinyclip-edge demo",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
    ) as page:
        session = Session(gr.State(None), gr.State(classify.NAME), gr.State(None))
        _models(service, session, page)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Classify", id=classify.NAME) as tab:
                classify.classify_tab(service, session, page)
                _stay(tab, classify.NAME, session)
            with gr.Tab("Search", id=search.NAME) as tab:
                search.search_tab(service, session, tab)
                _stay(tab, search.NAME, session)
            with gr.Tab("Measure", id=measure.NAME) as tab:
                measure.measure_tab(service, session)
                _stay(tab, measure.NAME, session)
            with gr.Tab("Disagreements", id=disagreements.NAME) as tab:
                disagreements.disagreements_tab(service, session)
                _stay(tab, disagreements.NAME, session)
    return page


def _stay(tab: gr.Tab, name: str, session: Session) -> None:
    tab.select(lambda: name, None, session.tab, **QUIET)


def _models(service: DemoService, session: Session, page: gr.Blocks) -> None:
    shelf = service.shelf
    shown = gr.State(())  # states of the models as the cards tell them
    head = html(cards.header(shelf), "head", TICKED)
    with gr.Accordion("Add a model", open=False, visible=service.paths, elem_id="add"):
        with gr.Row(elem_classes="tc-query", equal_height=True):
            source = gr.Textbox(
                label="A bundle (FOLDER, FOLDER@fp32), a run, an open_clip name, hf-hub:owner/name",
                max_lines=1, scale=8, elem_id="source",
            )  # fmt: skip
            button = gr.Button("Add", scale=1, min_width=110, elem_id="add-button")
        note = html("", "add-note")
    timer = gr.Timer(LOOK_SECONDS)

    def look(states: Sequence[str], names: Sequence[str] | None) -> tuple[Any, Any, Any]:
        shelf.start()
        now = shelf.states()
        ticking = gr.Timer(active=not shelf.settled(range(len(shelf))))
        # The same cards again would take the keyboard's focus from them.
        same = tuple(states) == now
        return gr.skip() if same else cards.header(shelf, names), ticking, now

    def tick(event: gr.EventData) -> list[str]:
        names = getattr(event, "names", None)
        known = set(shelf.names)
        return [name for name in names or [] if name in known]

    def add(request: gr.Request, text: str, names: Sequence[str] | None) -> tuple[Any, ...]:
        before = shelf.names if names is None else names
        try:
            check_paths(service, request)
            added = shelf.add(text or "")
        except TinyClipError as error:
            return parts.problem(str(error)), *(gr.skip() for _ in range(5))
        chosen = [*before, added]
        told = parts.hint(f"{added} is added")
        return told, "", cards.header(shelf, chosen), chosen, gr.Timer(active=True), shelf.states()

    follow = [head, timer, shown]
    page.load(look, [shown, session.chosen], follow, **QUIET)
    timer.tick(look, [shown, session.chosen], follow, **QUIET)
    head.click(tick, None, session.chosen, **EACH)
    outputs = [note, source, head, session.chosen, timer, shown]
    gr.on([button.click, source.submit], add, [source, session.chosen], outputs, **QUIET)
