"""The demo page in a real browser tells what it cannot do, and takes what is written as text."""

import pytest
from hue_page import (
    CHROMIUM,
    classified,
    hue_picture,
    labels,
    note,
    open_page,
    open_search,
    results_of,
    served,
    upload,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
]


@pytest.mark.slow
def test_a_model_that_is_added_is_reported_when_it_fails(browser, tmp_path):
    with served(tmp_path / "indexes") as url, open_page(browser, url) as page:
        page.get_by_role("button", name="Add a model").click()
        page.click("#add-button")
        note(page, "#add-note", "No model")
        page.fill("#source textarea, #source input", str(tmp_path / "nowhere"))
        page.click("#add-button")
        page.wait_for_function("document.querySelectorAll('.tc-cards > li.failed').length == 1")
        assert "no model folder" in page.inner_text(".tc-cards > li.failed")
        # the others go on
        labels(page, "red, green, blue")
        assert "No model folder" in classified(page, "Encode 3 labels")


@pytest.mark.parametrize(
    ("text", "message"), [("", "No labels"), (" ,\n,", "No labels"), ("cat", "Only one label")]
)
def test_labels_to_mend_are_reported(page, text, message):
    labels(page, text)
    assert "Traceback" not in classified(page, message)


def test_no_image_and_broken_uploads_are_reported(page, tmp_path):
    page.get_by_role("button", name="Remove Image").click()
    classified(page, "Pick an example")
    page.click("#classify-button")
    classified(page, "No image yet")
    valid = tmp_path / "whole.png"
    hue_picture("red").save(valid)
    content = valid.read_bytes()
    for name, data, message in (
        ("broken.png", content[:120], "cannot be decoded"),
        ("text.png", b"hello", "not a supported image"),
        ("empty.png", b"", "0 bytes"),
        (
            "script.svg",
            b"<svg onload='alert(1)' xmlns='http://www.w3.org/2000/svg'/>",
            "not a supported image",
        ),
    ):
        (tmp_path / name).write_bytes(data)
        upload(page, tmp_path / name)
        assert "Traceback" not in classified(page, message)
        page.get_by_role("button", name="Remove Image").click()
        classified(page, "Pick an example")


@pytest.mark.slow
def test_an_upload_over_the_limit_is_reported(browser, address, tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(b"x" * 21_000_000)
    with open_page(browser, address, console=("413", "Response")) as page:
        page.get_by_role("button", name="Remove Image").click()
        classified(page, "Pick an example")
        upload(page, large)
        page.get_by_text("exceed the maximum allowed size of 20").first.wait_for()


@pytest.mark.slow
def test_what_a_user_writes_is_text(page):
    labels(page, "<b id=evil>red</b>, ${1+1} blue, {{value}} green")
    text = classified(page, "${1+1} blue")
    assert "<b id=evil>red</b>" in text
    assert "{{value}} green" in text
    assert page.locator("#evil").count() == 0


def test_a_blank_query_is_reported(page):
    open_search(page)
    page.fill("#query textarea, #query input", "   ")
    page.click("#search-button")
    assert "Traceback" not in results_of(page, "The query is blank")
