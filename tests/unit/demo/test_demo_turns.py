"""Of several calls that fill one result, the page shows the latest that has an answer."""

from types import SimpleNamespace

import gradio as gr

from tinyclip_demo.tabs.wiring import result_handler
from tinyclip_edge.errors import DataError


@result_handler("result")
def answer(*texts):
    yield from texts


def call(page, *texts):
    return answer(SimpleNamespace(session_hash=page), *texts)


def test_an_earlier_call_that_answers_late_is_not_shown():
    first, second = call("one", "first", "first again"), call("one", "second", "second again")
    assert next(first) == "first"
    assert next(second) == "second"
    assert list(first) == [gr.skip()]
    assert list(second) == ["second again"]


def test_an_earlier_call_goes_on_until_the_later_one_has_an_answer():
    first, second = call("two", "first", "first again"), call("two", gr.skip())
    assert next(first) == "first"
    assert list(second) == [gr.skip()]
    assert list(first) == ["first again"]


def test_pages_do_not_outdate_each_other():
    first, second = call("three", "first", "first again"), call("four", "second")
    assert [next(first), next(second), next(first)] == ["first", "second", "first again"]


def test_an_error_is_a_note_unless_a_later_call_has_answered():
    @result_handler("result", 2)
    def failing(text):
        yield text, 1
        raise DataError("no such picture")

    request = SimpleNamespace(session_hash="five")
    first, second = failing(request, "first"), failing(request, "second")
    assert next(first) == ("first", 1)
    assert next(second) == ("second", 1)
    assert list(first) == []
    ((note, other),) = list(second)
    assert "No such picture" in note
    assert other == gr.skip()
