"""What the tabs share: quiet events, errors as notes, buttons inside HTML."""

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

from tinyclip_demo.service import DemoService
from tinyclip_demo.uploads import give_back_memory
from tinyclip_demo.view import parts
from tinyclip_edge.errors import DataError, TinyClipError

# One listener for a whole row of buttons: the event says which of them was meant.
CHOOSE = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-at]');
  if (button) trigger('click', {at: Number(button.dataset.at)});
});"""
# A second wish during the first is not lost: the last one is answered after it.
LAST: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
QUIET: dict[str, Any] = {**LAST, "api_visibility": "private"}
# For events that carry data: gradio would answer a second one, once the first has ended, with the
# data of the first. All are sent, and answered one after another.
EACH: dict[str, Any] = {**QUIET, "trigger_mode": "multiple", "concurrency_limit": 1}
Choice = TypeVar("Choice")
Outputs = Any  # an HTML text, or a tuple that starts with one
Handler = Callable[..., Iterator[Outputs]]
SESSIONS_KEPT = 10_000
GIVE_BACK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Session:
    """What one open page remembers, as gradio states."""

    chosen: gr.State  # names of the models that are compared; None: all
    tab: gr.State
    gallery: gr.State  # key of the gallery; None: the page's own


class Turns:
    """Which call shows its answer, for each result of each open page: the latest that has one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = itertools.count(1)
        self._shown: OrderedDict[tuple[str, str], int] = OrderedDict()

    def number(self) -> int:
        """Return the number of a new call; later calls have higher ones."""
        return next(self._calls)

    def claim(self, session: str, part: str, call: int) -> bool:
        """Show the answer of this call from now on; False if a later call has shown one."""
        with self._lock:
            if self.outdated(session, part, call):
                return False
            self._shown[session, part] = call
            self._shown.move_to_end((session, part))
            while len(self._shown) > SESSIONS_KEPT:
                self._shown.popitem(last=False)
            return True

    def outdated(self, session: str, part: str, call: int) -> bool:
        """Whether a later call has shown its answer."""
        return self._shown.get((session, part), 0) > call


_turns = Turns()


def told(part: str, outputs: int = 1) -> Callable[[Handler], Handler]:
    """Make a handler of a generator: errors become a note, outdated answers are not shown.

    ``part`` names the result that the handler fills; it is the first of its ``outputs``. What the
    user can mend is told as it is; a fault of ours goes to the terminal in full.
    """

    def wrap(work: Handler) -> Handler:
        def tell(request: gr.Request, *values: Any) -> Iterator[Outputs]:  # noqa: ANN401
            session, call = str(request.session_hash), _turns.number()
            others = [gr.skip() for _ in range(outputs - 1)]
            try:
                for answer in work(*values):
                    # A call that leaves the result as it is does not end the one that fills it.
                    silent = (answer[0] if others else answer) == gr.skip()
                    if silent:
                        current = not _turns.outdated(session, part, call)
                    else:
                        current = _turns.claim(session, part, call)
                    if not current:
                        yield (gr.skip(), *others) if others else gr.skip()
                        return
                    yield answer
            except TinyClipError as error:
                note = parts.problem(str(error))
            except Exception:
                traceback.print_exc(file=sys.stderr)
                note = parts.problem("this failed, through no fault of yours; see the terminal")
            else:
                return
            finally:
                give_back_memory(GIVE_BACK_SECONDS)
            if _turns.claim(session, part, call):
                yield (note, *others) if others else note

        return tell

    return wrap


def check_paths(service: DemoService, request: gr.Request) -> None:
    """Raise ConfigError unless the visitor may name paths of this machine."""
    service.check_paths(getattr(request.client, "host", None), request.headers.items())


def picker(values: Sequence[Choice]) -> Callable[[gr.EventData], Choice]:
    """Return a handler that answers a click on one of the buttons with its value."""

    def pick(event: gr.EventData) -> Choice:
        return values[place(event, len(values))]

    return pick


def place(event: gr.EventData, size: int) -> int:
    """Return which button was clicked; raise DataError for a number that no button has."""
    at = getattr(event, "at", None)
    if not isinstance(at, int) or not 0 <= at < size:
        raise DataError(f"no choice {at!r}")
    return at


def html(value: str, name: str, script: str | None = None) -> gr.HTML:
    """Return an HTML component with the page's own style."""
    return gr.HTML(
        value, elem_id=name, elem_classes="tc-html", js_on_load=script, apply_default_css=False
    )


def picture_input(picture: Any, name: str, label: str, height: int) -> gr.Image:  # noqa: ANN401
    """Return an image input that hands on the path of what was sent, unopened.

    gradio would open the file and fail without a word to the user; the service explains. Not a
    subclass: gradio writes a .pyi beside the source of every one.
    """
    image = gr.Image(
        picture, label=label, sources=["upload", "webcam", "clipboard"], height=height,
        buttons=[], elem_id=name, format="png",
    )  # fmt: skip
    image.preprocess = _unopened
    return image


def waiting(service: DemoService, names: Sequence[str] | None) -> str:
    """Return a note on the chosen models that are still loading."""
    shelf = service.shelf
    return parts.awaiting(
        [shelf.names[i] for i in shelf.numbers(names) if not shelf.slots[i].settled]
    )


def failures(service: DemoService, names: Sequence[str] | None) -> str:
    """Return a note for each of the chosen models that does not load."""
    slots = [service.shelf.slots[i] for i in service.shelf.numbers(names)]
    return "".join(parts.problem(slot.error) for slot in slots if slot.error)


def _unopened(upload: Any) -> str | None:  # noqa: ANN401 - gradio's FileData, or None
    return str(upload.path) if upload is not None and upload.path else None
