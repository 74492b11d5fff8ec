"""The layout of the page: models above, tabs below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs import classify, disagreements, measure, own_pictures, search
from tinyclip_demo.tabs.wiring import EACH, QUIET, Session, check_paths, html
from tinyclip_demo.view import cards, parts
from tinyclip_edge.errors import TinyClipError

# Sends the checked boxes of all cards; each open page has its own selection. Cards may be redrawn
# before the server has received the latest tick, so the page restores its boxes after each redraw.
TICKED = """const unticked = new Set();
const boxes = () => [...element.querySelectorAll('input[data-name]')];
element.addEventListener('change', event => {
  if (!event.target.matches('input[data-name]')) return;
  const {checked, dataset: {name}} = event.target;
  checked ? unticked.delete(name) : unticked.add(name);
  trigger('click', {names: boxes().filter(box => box.checked).map(box => box.dataset.name)});
});
new MutationObserver(() => {
  for (const box of boxes()) box.checked = !unticked.has(box.dataset.name);
}).observe(element, {childList: true, subtree: true});"""
CACHE_SECONDS = 3600
LOOK_SECONDS = 0.7  # between polls of the loading state
# Between polls after loading, which are still needed: gradio (6.31) holds back the response to an
# event sent while the page's response stream closes, until another event opens the next stream.
IDLE_LOOK_SECONDS = 3.0


def build_page(service: DemoService) -> gr.Blocks:
    """Build the whole page; models start loading when it is first opened."""
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
                _remember_tab(tab, classify.NAME, session)
            with gr.Tab("Search", id=search.NAME) as tab:
                search.search_tab(service, session, tab)
                _remember_tab(tab, search.NAME, session)
            with gr.Tab("Measure", id=measure.NAME) as tab:
                measure.measure_tab(service, session, tab)
                _remember_tab(tab, measure.NAME, session)
            with gr.Tab("Disagreements", id=disagreements.NAME) as tab:
                disagreements.disagreements_tab(service, session, tab)
                _remember_tab(tab, disagreements.NAME, session)
            with gr.Tab("Your pictures", id=own_pictures.NAME) as tab:
                own_pictures.own_pictures_tab(service, session, tab)
                _remember_tab(tab, own_pictures.NAME, session)
    return page


def _remember_tab(tab: gr.Tab, name: str, session: Session) -> None:
    tab.select(lambda: name, None, session.tab, **QUIET)


def _models(service: DemoService, session: Session, page: gr.Blocks) -> None:
    registry = service.registry
    displayed_states = gr.State(())  # states of the models that the cards show
    head = html(cards.header(registry), "head", TICKED)
    with gr.Accordion("Add a model", open=False, visible=service.paths, elem_id="add"):
        with gr.Row(elem_classes="tc-query", equal_height=True):
            source = gr.Textbox(
                label="A bundle (FOLDER, FOLDER@fp32), a run, an open_clip name, hf-hub:owner/name",
                max_lines=1, scale=8, elem_id="source",
            )  # fmt: skip
            button = gr.Button("Add", scale=1, min_width=110, elem_id="add-button")
        note = html("", "add-note")
    timer = gr.Timer(LOOK_SECONDS)

    def look(states: Sequence[str]) -> tuple[Any, Any, Any]:
        registry.start()
        states_now = registry.states()
        is_settled = registry.is_settled(range(len(registry)))
        ticking = gr.Timer(IDLE_LOOK_SECONDS if is_settled else LOOK_SECONDS)
        # Redrawing identical cards would lose the keyboard focus.
        unchanged = tuple(states) == states_now
        return gr.skip() if unchanged else cards.header(registry), ticking, states_now

    def tick(event: gr.EventData) -> list[str]:
        names = getattr(event, "names", None)
        registry_names = set(registry.names)
        return [name for name in names or [] if name in registry_names]

    state_outputs = [head, timer, displayed_states]
    page.load(look, displayed_states, state_outputs, **QUIET)
    timer.tick(look, displayed_states, state_outputs, **EACH)
    head.click(tick, None, session.selected, **EACH)
    outputs = [note, source, head, session.selected, timer, displayed_states]
    add = _add_handler(service)
    gr.on([button.click, source.submit], add, [source, session.selected], outputs, **QUIET)


def _add_handler(service: DemoService) -> Callable[..., tuple[Any, ...]]:
    """Return the handler that adds a model and selects it.

    It returns the note, an empty source, the cards, the selected names, the timer and the states.
    """
    registry = service.registry

    def add(request: gr.Request, text: str, names: Sequence[str] | None) -> tuple[Any, ...]:
        selected_before = registry.names if names is None else names
        try:
            check_paths(service, request)
            added = registry.add(text or "")
        except TinyClipError as error:
            return parts.problem(str(error)), *(gr.skip() for _ in range(5))
        selected = [*selected_before, added]
        message = parts.hint(f"{added} was added")
        return (
            message,
            "",
            cards.header(registry),
            selected,
            gr.Timer(LOOK_SECONDS),
            registry.states(),
        )

    return add
