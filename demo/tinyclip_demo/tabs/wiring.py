"""Event handling shared by the tabs: quiet events, errors as notes, buttons in HTML."""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from tinyclip_demo.presets import TEMPLATES
from tinyclip_demo.service import DemoService
from tinyclip_demo.uploads import release_memory
from tinyclip_demo.view import hits, parts
from tinyclip_edge.errors import DataError, TinyClipError

# One listener for a whole row of buttons; the event carries the index of the clicked one.
CHOOSE = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-at]');
  if (button) trigger('click', {at: Number(button.dataset.at)});
});"""
# If several events arrive while one is handled, only the last of them is handled afterwards.
LAST: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
QUIET: dict[str, Any] = {**LAST, "api_visibility": "private"}
# For events that carry data: with the mode above, gradio would handle a second event with the data
# of the first. Instead, all are sent and handled one after another.
EACH: dict[str, Any] = {**QUIET, "trigger_mode": "multiple", "concurrency_limit": 1}
Choice = TypeVar("Choice")
Outputs = Any  # an HTML text, or a tuple that starts with one
Handler = Callable[..., Iterator[Outputs]]
MAX_SESSIONS = 10_000
RELEASE_DELAY = 1.0


@dataclass(frozen=True, slots=True)
class Session:
    """State of one open page."""

    selected: gr.State  # names of the models to compare, None for all
    tab: gr.State
    gallery: gr.State  # key of the gallery, None for the page's own


class LatestCalls:
    """For each result on each open page, which call it shows: the latest one with output."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = itertools.count(1)
        self._displayed: OrderedDict[tuple[str, str], int] = OrderedDict()

    def number(self) -> int:
        """Return the number of a new call; later calls have higher ones."""
        return next(self._calls)

    def claim(self, session: str, part: str, call: int) -> bool:
        """Show this call's output from now on; False if a later call's is already shown."""
        with self._lock:
            if self.is_outdated(session, part, call):
                return False
            self._displayed[session, part] = call
            self._displayed.move_to_end((session, part))
            while len(self._displayed) > MAX_SESSIONS:
                self._displayed.popitem(last=False)
            return True

    def is_outdated(self, session: str, part: str, call: int) -> bool:
        """Whether a later call's output is already shown."""
        return self._displayed.get((session, part), 0) > call


_latest_calls = LatestCalls()


def result_handler(part: str, outputs: int = 1) -> Callable[[Handler], Handler]:
    """Turn a generator into an event handler: errors become a note, outdated results are skipped.

    ``part`` names the result that the handler fills, the first of its ``outputs``. A TinyClipError
    is shown to the user; any other exception is printed in full to the terminal.
    """

    def wrap(generator: Handler) -> Handler:
        def handle(request: gr.Request, *values: Any) -> Iterator[Outputs]:  # noqa: ANN401
            session, call = str(request.session_hash), _latest_calls.number()
            skipped = [gr.skip() for _ in range(outputs - 1)]
            try:
                for output in generator(*values):
                    # A call that leaves the result unchanged does not end the call that fills it.
                    is_skip = (output[0] if skipped else output) == gr.skip()
                    if is_skip:
                        is_current = not _latest_calls.is_outdated(session, part, call)
                    else:
                        is_current = _latest_calls.claim(session, part, call)
                    if not is_current:
                        yield (gr.skip(), *skipped) if skipped else gr.skip()
                        return
                    yield output
            except TinyClipError as error:
                note = parts.problem(str(error))
            except Exception:
                traceback.print_exc(file=sys.stderr)
                note = parts.problem("this failed because of an internal error; see the terminal")
            else:
                return
            finally:
                release_memory(RELEASE_DELAY)
            if _latest_calls.claim(session, part, call):
                yield (note, *skipped) if skipped else note

        return handle

    return wrap


def check_paths(service: DemoService, request: gr.Request) -> None:
    """Raise ConfigError unless the visitor may open paths of this machine."""
    service.check_paths(getattr(request.client, "host", None), request.headers.items())


def may_open_paths(service: DemoService, request: gr.Request) -> bool:
    """Whether the visitor may open paths of this machine."""
    return service.may_open_paths(getattr(request.client, "host", None), request.headers.items())


def gallery_handler(
    service: DemoService,
    source: Callable[..., str | None],
    verb: str = "Searching",
    *,
    paths: bool = False,
) -> Callable[..., tuple[str, Any]]:
    """Return a handler that opens the gallery of ``source``; its outputs are a line and the key.

    ``paths``: only for visitors who may open paths of this machine.
    """

    def change_gallery(request: gr.Request, *values: Any) -> tuple[str, Any]:  # noqa: ANN401
        try:
            if paths:
                check_paths(service, request)
            key = source(*(value or "" for value in values))
            return hits.gallery_line(service.galleries.get(key), verb), key
        except TinyClipError as error:
            return parts.problem(str(error)), gr.skip()

    return change_gallery


def template_input(value: str, name: str) -> gr.Dropdown:
    """Return a dropdown of prompt templates that also accepts typed ones."""
    return gr.Dropdown(
        list(TEMPLATES), value=value,
        label="Prompt: {} is the label; | separates several, which are averaged",
        allow_custom_value=True, elem_id=name,
    )  # fmt: skip


def picker(values: Sequence[Choice]) -> Callable[[gr.EventData], Choice]:
    """Return a handler that maps a click on one of the buttons to its value."""

    def pick(event: gr.EventData) -> Choice:
        return values[clicked_index(event, len(values))]

    return pick


def clicked_index(event: gr.EventData, size: int) -> int:
    """Return the index of the clicked button; raise DataError if it is out of range."""
    index = getattr(event, "at", None)
    if not isinstance(index, int) or not 0 <= index < size:
        raise DataError(f"no choice {index!r}")
    return index


def html(value: str, name: str, script: str | None = None) -> gr.HTML:
    """Return an HTML component in the style of the page."""
    return gr.HTML(
        value, elem_id=name, elem_classes="tc-html", js_on_load=script, apply_default_css=False
    )


def picture_input(picture: Any, name: str, label: str, height: int) -> gr.Image:  # noqa: ANN401
    """Return an image input that passes on the path of the upload without opening it.

    gradio would open the file and fail without a message; the service explains the error. Not a
    subclass, since gradio writes a .pyi file next to the source of each subclass.
    """
    image = gr.Image(
        picture, label=label, sources=["upload", "webcam", "clipboard"], height=height,
        buttons=[], elem_id=name, format="png",
    )  # fmt: skip
    image.preprocess = _unopened
    return image


def waiting(service: DemoService, names: Sequence[str] | None) -> str:
    """Return a note on the selected models that are still loading."""
    registry = service.registry
    return parts.awaiting(
        [registry.names[i] for i in registry.numbers(names) if not registry.slots[i].is_settled]
    )


def failures(service: DemoService, names: Sequence[str] | None) -> str:
    """Return a note for each of the selected models that failed to load."""
    slots = [service.registry.slots[i] for i in service.registry.numbers(names)]
    return "".join(parts.problem(slot.error) for slot in slots if slot.error)


def _unopened(upload: Any) -> str | None:  # noqa: ANN401 - gradio's FileData, or None
    return str(upload.path) if upload is not None and upload.path else None
