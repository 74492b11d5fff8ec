"""Ticks on the models' cards, in a real browser: each one counts, and is answered."""

import pytest
from hue_page import CHROMIUM, classified, labels, open_search, open_tab

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
]


@pytest.mark.slow
def test_models_are_selected_on_their_cards(page):
    labels(page, "red, green, blue")
    classified(page, "Encode 3 labels")
    page.get_by_role("checkbox", name="Compare student int8").uncheck()
    page.wait_for_function("document.querySelectorAll('#classified thead th').length == 2")
    for name in ("Compare teacher", "Compare student fp32"):
        page.get_by_role("checkbox", name=name).uncheck()
    classified(page, "tick at least one")
    page.get_by_role("checkbox", name="Compare student int8").check()
    page.wait_for_function("document.querySelectorAll('#classified thead th').length == 1")
    open_search(page)
    assert page.locator("#found .tc-strip").count() == 1


def test_quick_ticks_all_count(page):
    """The second tick during the first one's way to the server and back is the one that counts."""
    page.evaluate(
        """async () => {
          const fetched = window.fetch;
          const seconds = delay => new Promise(done => setTimeout(done, 1000 * delay));
          window.fetch = async (...request) => {
            const response = await fetched(...request);
            if (String(request[0]?.url ?? request[0]).includes('/queue/join')) await seconds(0.5);
            return response;
          };
          for (const name of ['teacher', 'student fp32']) {
            document.querySelector(`input[data-name="${name}"]`).click();
            await seconds(0.1);
          }
        }"""
    )
    page.wait_for_function("document.querySelectorAll('#classified thead th').length == 1")
    assert "student int8" in page.inner_text("#classified thead")


def test_cards_drawn_anew_keep_their_ticks(page):
    """A model that has loaded has all cards drawn anew, maybe while a tick is on its way."""
    page.get_by_role("checkbox", name="Compare student int8").uncheck()
    page.evaluate(
        "(cards => cards.outerHTML = cards.outerHTML)(document.querySelector('.tc-cards'))"
    )
    page.get_by_role("checkbox", name="Compare student fp32").uncheck()
    page.wait_for_function("document.querySelectorAll('#classified thead th').length == 1")
    assert "teacher" in page.inner_text("#classified thead")


def test_an_answer_that_a_closing_stream_held_back_comes(page):
    """gradio keeps the answer of an event sent while the stream closed; nothing else is clicked."""
    open_search(page)
    page.evaluate(
        """() => {
          const fetched = window.fetch;
          let joined, held = false;
          const next = new Promise(done => { joined = done; });
          window.fetch = async (...request) => {
            const response = await fetched(...request);
            const url = String(request[0]?.url ?? request[0]);
            if (held && url.includes('/queue/join')) setTimeout(joined, 200);
            if (!url.includes('/queue/data')) return response;
            const slow = new TransformStream({
              async transform(chunk, controller) {
                const closes = new TextDecoder().decode(chunk).includes('close_stream');
                if (closes && !held) {
                  held = window.closing = true;
                  await next;
                }
                controller.enqueue(chunk);
              },
            });
            return new Response(response.body.pipeThrough(slow), response);
          };
        }"""
    )
    open_tab(page, "Classify")  # one event, which nothing follows
    page.wait_for_function("window.closing")
    page.get_by_role("checkbox", name="Compare student int8").uncheck()
    page.wait_for_function("document.querySelectorAll('#classified thead th').length == 2")
