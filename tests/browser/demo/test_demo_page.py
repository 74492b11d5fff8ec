"""The demo page in a real browser: it works, hides no error and contacts no other host."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
from hue_page import (
    CHROMIUM,
    HUES,
    classified,
    first_hit,
    hue_picture,
    labels,
    note,
    open_page,
    open_search,
    open_tab,
    query,
    results_of,
    upload,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
]


@pytest.mark.slow
def test_cards_show_each_model_with_its_facts(page):
    cards = page.locator(".tc-cards > li")
    names = [name.strip() for name in page.locator(".tc-cards h2").all_inner_texts()]
    assert names == ["teacher", "student fp32", "student int8"]
    for part in ("ready", "ONNX Runtime", "int8", "1.00 M", "4.0 MB"):
        assert part in cards.nth(2).inner_text()
    assert "3 of 3 models ready" in page.inner_text("#head")


def test_upload_and_classify(page, tmp_path):
    hue_picture("blue", 300).save(tmp_path / "blue.png")
    page.fill("#labels textarea", "a red thing\na blue thing, a green thing")
    upload(page, tmp_path / "blue.png")
    classified(page, "All 3 models say a blue thing")
    hue_picture("red", 300).save(tmp_path / "red.jpg")
    upload(page, tmp_path / "red.jpg")
    # the third model takes red for green
    text = classified(page, "student int8 says a green thing")
    assert "teacher, student fp32 say a red thing" in text
    for line in ("Preprocess", "Encode image", "Compare", "PyTorch fp32 · 4.0 MB"):
        assert line in text
    assert page.locator("#classified .tc-bars tbody tr").count() == 3


@pytest.mark.slow
def test_the_camera_is_a_way_in(page):
    page.get_by_role("button", name="Remove Image").click()
    classified(page, "Pick an example")
    labels(page, "red, green, blue")
    classified(page, "No image yet")
    page.locator("#image").get_by_role("button", name="Capture from camera").click()
    page.locator("#image").get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#image video')?.videoWidth > 0")
    page.locator("#image").get_by_role("button", name="capture photo").click()
    classified(page, "Encode 3 labels")


@pytest.mark.slow
def test_example_list_and_template_are_one_click_each(page):
    page.get_by_role("button", name="Gallery names").click()
    page.click("#examples button:last-child")
    classified(page, "All 3 models say blue disc")
    page.get_by_role("button", name="CIFAR-10").click()
    classified(page, "Encode 10 labels")
    assert page.input_value("#labels textarea").startswith("airplane, automobile")
    page.fill("#template input", "no place for it")
    page.press("#template input", "Enter")
    classified(page, "needs {} in place of the label")


def test_search_side_by_side(page):
    open_search(page)
    query(page, "something blue")
    first_hit(page, "blue disc")
    strips = page.locator("#found .tc-strip")
    assert strips.count() == 3
    assert strips.nth(1).locator("li").count() == 10
    assert "overlap@10: 10 of 10" in strips.nth(1).inner_text()
    page.fill("#query textarea, #query input", "red")
    page.click("#search-button")
    first_hit(page, "red disc")
    # the third model shows green ones, which the teacher ranks behind twenty red ones
    assert "overlap@10: 0 of 10" in strips.nth(2).inner_text()
    assert strips.nth(2).locator("li.new .tc-delta").first.inner_text() in ("#21", "#41")


@pytest.mark.slow
def test_a_picture_finds_pictures(page, tmp_path):
    open_search(page)
    query(page, "green")
    first_hit(page, "green disc")
    page.locator("#found .tc-hits button").first.click()
    results_of(page, "Pictures like green disc")
    page.get_by_role("button", name="Search by picture").click()
    hue_picture("red", 200).save(tmp_path / "mine.png")
    page.set_input_files("#query-image input[type=file]", str(tmp_path / "mine.png"))
    results_of(page, "Pictures like your picture")
    assert page.inner_text("#found .tc-hits p") == "red disc"
    (tmp_path / "text.png").write_bytes(b"hello")
    page.locator("#query-image").get_by_role("button", name="Remove Image").click()
    page.set_input_files("#query-image input[type=file]", str(tmp_path / "text.png"))
    assert "Traceback" not in results_of(page, "not a supported image")


@pytest.mark.slow
def test_pictures_of_one_s_own_are_searched(page, tmp_path):
    open_search(page)
    page.get_by_role("button", name="Search by picture").click()
    files = []
    for hue in HUES:
        files.append(tmp_path / f"my_{hue}_thing.png")
        hue_picture(hue).save(files[-1])
    page.set_input_files("#dropped input[type=file]", [str(file) for file in files])
    note(page, "#gallery", "3 pictures: dropped files")
    query(page, "blue")
    first_hit(page, "my blue thing")
    page.fill("#folder textarea, #folder input", str(tmp_path / "nowhere"))
    page.click("#open-folder")
    note(page, "#gallery", "no such folder")
    page.fill("#folder textarea, #folder input", str(tmp_path))
    page.click("#open-folder")
    note(page, "#gallery", tmp_path.name)
    page.click("#own-gallery")
    note(page, "#gallery", "60 pictures: discs")


def test_measure_and_take_the_figures_away(page):
    open_tab(page, "Measure")
    page.wait_for_selector("#get-json:not([disabled])")  # of the tab's own measurement
    page.wait_for_selector("#measured .tc-figures")
    page.evaluate("document.querySelector('#measured .tc-figures').dataset.old = 'yes'")
    page.click("#measure-button")
    page.wait_for_selector("#measured .tc-figures:not([data-old])")
    page.wait_for_selector("#get-json:not([disabled])")
    text = page.inner_text("#measured")
    assert page.locator("#measured .tc-figures tbody tr").count() == 3
    assert page.locator("#measured .tc-bubble").count() == 3
    assert "20 interleaved rounds, 1 thread" in text and "60 pairs of discs" in text
    assert "processor" in page.inner_text("#host")
    with page.expect_download() as download:
        page.click("#get-json")
    report = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [row["model"] for row in report["models"]] == ["teacher", "student fp32", "student int8"]
    with page.expect_download() as download:
        page.click("#get-csv")
    lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [float(line["image_median_ms"]) for line in lines] == [
        row["image_median_ms"] for row in report["models"]
    ]


def test_disagreements_and_their_shard(page):
    open_tab(page, "Disagreements")
    page.click("#mine-button")
    page.wait_for_selector("#mined .tc-pairs")
    text = page.inner_text("#mined")
    # red and green are swapped in the third model, blue is not
    assert "different captions for 40 pictures of 60 (66.7%)" in text
    assert page.locator("#mined tbody tr").count() == 10
    page.click("#order input")
    page.get_by_role("option", name="First model right, another wrong").click()
    note(page, "#mined", "First model right, another wrong")
    page.wait_for_selector("#get-shard:not([disabled])")
    assert page.locator("#mined td.no").count() == 10
    with page.expect_download() as download:
        page.click("#get-shard")
    assert download.value.suggested_filename == "disagreements.tar"
    with tarfile.open(download.value.path()) as tar:
        names = tar.getnames()
        caption = tar.extractfile(next(n for n in names if n.endswith(".txt"))).read().decode()
    assert len(names) == 30
    assert caption.strip() in ("red disc", "green disc")
    for name in ("Compare student fp32", "Compare student int8"):
        page.get_by_role("checkbox", name=name).uncheck()
    note(page, "#mined", "One model cannot disagree")


def test_tabs_fill_themselves_and_the_next_visitor_sees_the_stored_measurement(browser, address):
    measured = "document.querySelector('#measured .tc-legend').innerText"
    texts = []
    for _ in range(2):
        with open_page(browser, address) as tab:
            open_tab(tab, "Measure")
            tab.wait_for_selector("#measured .tc-figures")
            tab.wait_for_selector("#get-json:not([disabled])")
            texts.append(tab.evaluate(measured))
    assert texts[0] == texts[1] and "measured 20" in texts[0]
    with open_page(browser, address) as tab:
        for name in ("Compare student fp32", "Compare student int8"):
            tab.get_by_role("checkbox", name=name).uncheck()
        tab.wait_for_function("document.querySelectorAll('#classified thead th').length == 1")
        open_tab(tab, "Disagreements")
        note(tab, "#mined", "Tick at least two models")
        assert tab.locator("#mined .tc-problem").count() == 0


@pytest.mark.slow
def test_two_users_at_once(browser, address):
    with open_page(browser, address) as one, open_page(browser, address) as two:
        for number, tab in enumerate((one, two)):
            tab.fill("#labels textarea", ", ".join(f"red {i}" for i in range(3 + number)))
            tab.click("#classify-button")
        for number, tab in enumerate((one, two)):
            classified(tab, f"Encode {3 + number} labels")
        # what one chooses is not chosen for the other
        one.get_by_role("checkbox", name="Compare student int8").uncheck()
        one.wait_for_function("document.querySelectorAll('#classified thead th').length == 2")
        two.click("#classify-button")
        two.wait_for_timeout(500)
        assert two.locator("#classified thead th").count() == 3


def test_the_server_asks_no_other_host(peers, page):
    open_search(page)
    assert peers <= {"127.0.0.1", "localhost", None}
    assert "127.0.0.1" in peers
