"""A visitor's own pictures on the demo page, in a real browser."""

import shlex
from pathlib import Path

import pytest
from hue_page import CHROMIUM, HUES, hue_picture, note, open_page, open_tab
from PIL import Image

from page_checks import faults

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
]
LABELS = "red thing\ngreen thing\nblue, or nearly"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four discs of each colour, some in a folder below, three pictures of grey, a broken one."""
    place = tmp_path_factory.mktemp("mine")
    (place / "more").mkdir()
    for hue in HUES:
        for number in range(4):
            edge = 60 + number  # no two are the same
            hue_picture(hue, edge).save((place, place / "more")[number % 2] / f"{hue}{number}.png")
    for number in range(3):
        Image.new("RGB", (40, 40), (128, 128, 130 + number)).save(place / f"grey{number}.png")
    (place / "broken.jpg").write_bytes(b"no picture")
    return place


def drop(page, path):
    """Drop a file or a folder of this machine as a visitor does."""
    page.locator("#own-files").scroll_into_view_if_needed()
    box = page.locator("#own-files").bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})


def compare(page, labels=LABELS):
    page.fill("#own-labels textarea", labels)
    page.click("#own-button")


def test_a_dropped_folder_is_compared_and_tailored(page, folder):
    open_tab(page, "Your pictures")
    compare(page)
    note(page, "#own-compared", "No pictures yet")
    drop(page, folder)
    line = note(page, "#own-gallery", "Comparing 15 pictures")
    assert "1 file skipped: broken.jpg" in line
    compare(page, "red thing")
    note(page, "#own-compared", "Only one label (red thing)")
    compare(page)
    page.wait_for_selector("#own-compared .tc-confusion")
    text = page.inner_text("#own-compared")
    # red and green are swapped in the third model
    assert "All 3 models give the same label to 7 of 15 pictures (46.7%)" in text
    assert "Pictures on which they differ: 8" in text
    assert "Far from all labels, according to teacher: 3" in text
    assert page.locator("#own-compared .tc-pairs tbody img").count() == 8
    page.fill("#max-mb input", "0")
    page.click("#tailor-button")
    note(page, "#tailor-note", "max_mb is 0; it must be above 0")
    page.fill("#max-mb input", "2.5")
    page.click("#tailor-button")
    note(page, "#tailor-note", "It needs at least 36 pictures; these are 15")
    command = shlex.split(page.input_value("#tailor-command textarea"))
    assert command[:6] == [
        "tinyclip-edge",
        "tailor",
        "--images",
        "photos",
        "--labels",
        "labels.txt",
    ]
    assert command[command.index("--max-mb") + 1] == "2.5"
    with page.expect_download() as download:
        page.click("#get-labels")
    assert Path(download.value.path()).read_text(encoding="utf-8") == LABELS + "\n"


def test_chosen_files_labels_of_a_file_and_a_folder_s_path(page, folder, tmp_path):
    open_tab(page, "Your pictures")
    page.set_input_files("[data-testid='Choose pictures-upload-button']", [
        str(folder / "red0.png"), str(folder / "blue0.png"),
    ])  # fmt: skip
    note(page, "#own-gallery", "Comparing 2 pictures")
    (tmp_path / "names.txt").write_text("red thing\n\nblue thing\n")
    page.set_input_files(
        "[data-testid='Labels from a file-upload-button']", str(tmp_path / "names.txt")
    )
    page.wait_for_function("document.querySelector('#own-labels textarea').value.includes('blue')")
    page.click("#own-button")
    note(page, "#own-compared", "2 pictures (100.0%), choosing among 2 labels")
    page.fill("#own-folder input, #own-folder textarea", str(folder))
    page.click("#own-open")
    note(page, "#own-gallery", "Comparing 15 pictures")
    page.click("#tailor-button")
    page.wait_for_selector("#tailor-command textarea")
    assert f"--images {folder} " in page.input_value("#tailor-command textarea")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_answer_is_legible_on_a_phone(browser, address, folder, scheme):
    view = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    with open_page(browser, address, **view) as page:
        open_tab(page, "Your pictures")
        drop(page, folder)
        note(page, "#own-gallery", "Comparing 15 pictures")
        compare(page)
        page.wait_for_selector("#own-compared .tc-confusion")
        page.click("#tailor-button")
        page.wait_for_selector("#tailor-command textarea")
        assert faults(page) == {}
        sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(sideways) <= 0
