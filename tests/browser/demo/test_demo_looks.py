"""The demo page in a real browser is legible at every width, and used by keyboard and by ear."""

import pytest
from hue_page import CHROMIUM, classified, open_page, open_search, open_tab

from page_checks import faults

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
]
# What each tab shows by itself.
FILLED = {
    "Classify": "#classified .tc-bars",
    "Search": "#found .tc-hits",
    "Measure": "#measured .tc-figures",
    "Disagreements": "#mined .tc-pairs",
    "Your pictures": "#tailored .tc-note",
}
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_keyboard_alone_reaches_the_answer(page):
    page.focus("#labels textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("green, blue")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "classify-button":
            break
    page.keyboard.press("Enter")
    classified(page, "Encode 2 labels")


def test_everything_that_is_used_has_a_name(page):
    """A screen reader has a name for every control and a text or none for every picture."""
    open_search(page)
    page.get_by_role("button", name="Search by picture").click()
    nameless = """() => [...document.querySelectorAll('button, input, textarea, [role=button]')]
      .filter(one => one.offsetParent !== null && one.type !== 'file')
      .filter(one => !(one.innerText.trim() || one.getAttribute('aria-label') || one.title
        || one.labels?.length || one.getAttribute('aria-labelledby')))
      .map(one => one.outerHTML.slice(0, 200))"""
    for tab in FILLED:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(200)
        assert page.evaluate(nameless) == []
        pictures = "[...document.images].filter(one => one.alt === null).length"
        assert page.evaluate(pictures) == 0


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_a_phone_shows_everything_legibly(browser, address, scheme):
    """Nothing to scroll sideways, cut, faint, covered or broken within a word, in any tab."""
    view = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    with open_page(browser, address, **view) as tab:
        tops = "names => names.map(one => document.querySelector(one).getBoundingClientRect().top)"
        tabs, button, answer = tab.evaluate(tops, ["#tabs", "#classify-button", "#classified"])
        assert tabs < 844 / 2.5
        assert button < answer < button + 90
        for name, filled in FILLED.items():
            open_tab(tab, name)
            tab.wait_for_selector(filled)
            assert tab.evaluate(SIDEWAYS) <= 0
            assert faults(tab) == {}, name
        dark = tab.evaluate("document.body.classList.contains('dark')")
        assert dark == (scheme == "dark")


def test_a_wide_screen_shows_everything_legibly(page):
    for name, filled in FILLED.items():
        open_tab(page, name)
        page.wait_for_selector(filled)
        assert faults(page) == {}, name
