"""Answers of the page's worker that arrive after the user has chosen something else."""

import pytest

from web_page import (
    LABELS,
    MARKS,
    badges,
    chances,
    change_manifest,
    open_page,
    picture,
    silent_tab,
    type_labels,
    wait_until,
)

pytestmark = MARKS

# From the first answer to the method `held` on, answers of all workers wait for release().
HELD_WORKER = """
window.posted = [];
window.held = null;
const waiting = [];
let holding = false;
window.release = () => {
  window.held = null;
  holding = false;
  waiting.splice(0).forEach((deliver) => deliver());
};
window.Worker = class extends Worker {
  #methods = new Map();
  postMessage(message, transfer) {
    this.#methods.set(message.id, message.method);
    super.postMessage(message, transfer);
    window.posted.push(message.method);
  }
  addEventListener(type, listener) {
    super.addEventListener(type, (event) => {
      const method = type === "message" ? this.#methods.get(event.data.id) : null;
      if (method && method === window.held) holding = true;
      if (method && holding) waiting.push(() => listener(event));
      else listener(event);
      window.waiting = waiting.length;
    });
  }
};
"""


@pytest.fixture
def held(browser, server):
    """A page whose worker's answers can be held back."""
    with silent_tab(browser) as tab:
        tab.add_init_script(HELD_WORKER)
        open_page(tab, server)
        wait_until(tab, "posted.includes('classify')")
        yield tab


def hold(tab, method, act):
    """Do something whose answer from the worker's ``method`` then waits."""
    tab.evaluate("method => { held = method; posted.length = 0; window.waiting = 0; }", method)
    act()
    wait_until(tab, "window.waiting > 0")


@pytest.mark.parametrize(
    ("choice", "value", "posted", "shown"),
    [("#precision", "fp32", "open", "fp32"), ("#threads", "1", "look", "1 thread")],
)
@pytest.mark.slow
def test_labels_encoded_by_the_previous_model_are_dropped(held, choice, value, posted, shown):
    hold(held, "setLabels", lambda: held.fill("#labels", "cat, dog"))
    held.select_option(choice, value)
    wait_until(held, f"posted.includes('{posted}')")
    held.evaluate("release()")
    held.locator("#badges", has_text=shown).wait_for()
    held.locator("#bars:has(li:nth-child(2):last-child)").wait_for()
    assert shown in badges(held)
    assert held.is_hidden("#status")


@pytest.mark.slow
def test_an_answer_for_labels_that_were_cleared_is_dropped(held):
    hold(held, "classify", lambda: held.fill("#labels", "cat, dog"))
    held.fill("#labels", "")
    held.locator("#label-note", has_text="no labels").wait_for()
    held.evaluate("release()")
    assert chances(held) == []
    assert held.is_visible("#label-note")
    type_labels(held, LABELS)


@pytest.mark.slow
def test_an_answer_for_the_previous_labels_is_dropped(held):
    hold(held, "setLabels", lambda: held.fill("#labels", "cat, dog"))
    held.fill("#labels", "only one")
    held.locator("#label-note", has_text="only one label").wait_for()
    held.evaluate("release(); new Promise((resolve) => setTimeout(resolve))")
    assert held.evaluate("posted") == ["setLabels"]
    assert chances(held) == []
    assert held.is_visible("#label-note")


def test_no_precision_can_be_selected_without_a_bundle(held, tmp_path):
    (tmp_path / "pictures").mkdir()
    picture(20, 20).save(tmp_path / "pictures" / "a.png")
    held.set_input_files("#folder", tmp_path / "pictures")
    held.locator("#status", has_text="this folder is not a bundle").wait_for()
    for choice in ("#precision", "#backend", "#threads", "#test"):
        assert held.is_disabled(choice)


@pytest.mark.slow
def test_a_bundle_opened_during_the_self_test_is_waited_for(held, altered):
    change_manifest(altered, lambda content: content.update(name="from a folder"))
    hold(held, "selfTest", lambda: held.click("#test"))
    held.evaluate("held = 'look'")
    held.set_input_files("#folder", altered)
    wait_until(held, "posted.includes('look')")
    assert held.is_disabled("#precision")
    assert held.inner_text("#status").startswith("Opening the bundle")
    held.evaluate("release()")
    held.locator("#facts", has_text="from a folder").wait_for()
    held.locator("#bars li").first.wait_for()
    assert held.is_enabled("#precision")
