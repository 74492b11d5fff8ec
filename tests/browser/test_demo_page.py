"""The demo page in a real browser: it answers, mends nothing silently and asks no other host."""

import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tinyclip_demo.app import build_app, serve
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.service import DemoService
from tinyclip_edge.runtime.protocol import EmbedderSpec

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
]
HUES = {"red": (220, 40, 40), "green": (40, 160, 70), "blue": (40, 90, 220)}
ANSWER_MS = 20_000


class HueModel:
    """Sees the mean colour of the middle; knows the three colour words, in any sentence."""

    logit_scale = 20.0

    def __init__(self, name, runtime, precision, swapped=False):
        self.name = name
        self.spec = EmbedderSpec(64, 3, 1_000_000, 10, 4_000_000, runtime, precision)
        self.order = ["green", "red", "blue"] if swapped else ["red", "green", "blue"]

    def encode_image(self, images):
        middles = [np.asarray(image.convert("RGB").resize((9, 9)))[3:6, 3:6] for image in images]
        return self.unit([middle.reshape(-1, 3).mean(0) for middle in middles])

    def encode_text(self, texts):
        return self.unit([[float(hue in text) for hue in self.order] for text in texts])

    @staticmethod
    def unit(rows):
        rows = np.asarray(rows, dtype=np.float32) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def drawn(hue, edge=64):
    image = Image.new("RGB", (edge, edge), "white")
    ImageDraw.Draw(image).ellipse([6, 6, edge - 7, edge - 7], fill=HUES[hue])
    return image


@pytest.fixture(scope="module")
def peers():
    """Hosts that this process, and so the server, connects to or looks up."""
    seen = set()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def noted_connect(self, peer):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            seen.add(peer[0])
        return connect(self, peer)

    def noted_look_up(host, *args, **kwargs):
        seen.add(host)
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", noted_connect)
        patch.setattr(socket, "getaddrinfo", noted_look_up)
        yield seen


@pytest.fixture(scope="module")
def address(peers):
    names = [f"{hue} disc" for hue in HUES for _ in range(20)]
    pictures = tuple(drawn(name.split()[0]) for name in names)
    gallery = Gallery("discs", pictures, tuple(names), label_examples=True)
    models = [
        HueModel("teacher", "torch", "fp32"),
        HueModel("student", "torch", "fp32"),
        HueModel("student", "onnxruntime", "int8", swapped=True),
    ]
    page = build_app(DemoService(models, gallery))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    serve(page, host="127.0.0.1", port=port)
    yield f"http://127.0.0.1:{port}/"
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    """An open page; at the end it must have been silent and have asked nobody else."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    errors, hosts = [], set()
    tab.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: hosts.add(urlsplit(request.url)))
    tab.set_default_timeout(ANSWER_MS)
    tab.goto(address)
    tab.wait_for_selector("#classified .tc-bars")
    yield tab
    tab.close()
    assert errors == []
    assert {url.hostname for url in hosts if url.scheme not in ("data", "blob")} == {"127.0.0.1"}


def classified(page, text):
    page.wait_for_function(
        "text => document.querySelector('#classified').innerText.includes(text)", arg=text
    )
    return page.inner_text("#classified")


def found(page, text):
    page.wait_for_function(
        "text => document.querySelector('#found').innerText.includes(text)", arg=text
    )
    return page.inner_text("#found")


def open_search(page):
    page.get_by_role("tab", name="Search").click()
    page.wait_for_selector("#found .tc-hits")


def upload(page, path: Path):
    page.set_input_files("#image input[type=file]", str(path))


def test_header_shows_each_model_with_its_facts(page):
    cards = page.locator(".tc-cards > li").all_inner_texts()
    assert [card.splitlines()[0] for card in cards] == ["teacher", "student fp32", "student int8"]
    for part in ("ONNX Runtime", "int8", "1.00 M", "4.0 MB"):
        assert part in cards[2]


def test_upload_and_classify(page, tmp_path):
    drawn("blue", 300).save(tmp_path / "blue.png")
    page.fill("#labels textarea", "a red thing\na blue thing, a green thing")
    upload(page, tmp_path / "blue.png")
    classified(page, "All 3 models say a blue thing")
    drawn("red", 300).save(tmp_path / "red.jpg")
    upload(page, tmp_path / "red.jpg")
    # the third model takes red for green
    text = classified(page, "student int8 says a green thing")
    assert "teacher, student fp32 say a red thing" in text
    assert "Encode image" in text
    assert page.locator("#classified .tc-bars tbody tr").count() == 3


def test_example_list_and_template_are_one_click_each(page):
    page.click("#examples button:last-child")
    classified(page, "All 3 models say blue disc")
    page.get_by_role("button", name="CIFAR-10").click()
    classified(page, "Encode 10 labels")
    assert page.input_value("#labels textarea").startswith("airplane, automobile")
    page.fill("#template input", "no place for it")
    page.press("#template input", "Enter")
    classified(page, "needs {} where the label goes")


@pytest.mark.parametrize(
    ("labels", "message"), [("", "No labels"), (" ,\n,", "No labels"), ("cat", "Only one label")]
)
def test_labels_to_mend_are_told(page, labels, message):
    page.fill("#labels textarea", labels)
    page.click("#classify-button")
    assert "Traceback" not in classified(page, message)


def test_no_image_and_broken_uploads_are_told(page, tmp_path):
    page.get_by_role("button", name="Remove Image").click()
    classified(page, "Pick an example or upload")
    page.click("#classify-button")
    classified(page, "No image yet")
    broken = tmp_path / "broken.png"
    drawn("red").save(broken)
    broken.write_bytes(broken.read_bytes()[:120])
    upload(page, broken)
    classified(page, "does not decode")


def test_what_a_user_writes_is_text(page):
    page.fill("#labels textarea", "<b id=evil>red</b>, ${1+1} blue, {{value}} green")
    page.click("#classify-button")
    text = classified(page, "${1+1} blue")
    assert "<b id=evil>red</b>" in text
    assert "{{value}} green" in text
    assert page.locator("#evil").count() == 0


def test_search_side_by_side(page):
    open_search(page)
    page.fill("#query textarea, #query input", "something blue")
    page.press("#query textarea, #query input", "Enter")
    page.wait_for_function("document.querySelector('#found .tc-hits p').innerText == 'blue disc'")
    strips = page.locator("#found .tc-strip")
    assert strips.count() == 3
    assert strips.nth(1).locator("li").count() == 10
    assert "overlap@10: 10 of 10" in strips.nth(1).inner_text()
    page.fill("#query textarea, #query input", "red")
    page.click("#search-button")
    page.wait_for_function("document.querySelector('#found .tc-hits p').innerText == 'red disc'")
    # the third model shows green ones, which the teacher ranks behind twenty red ones
    assert "overlap@10: 0 of 10" in strips.nth(2).inner_text()
    assert strips.nth(2).locator("li.new .tc-delta").first.inner_text() in ("#21", "#41")


def test_a_blank_query_is_told(page):
    open_search(page)
    page.fill("#query textarea, #query input", "   ")
    page.click("#search-button")
    assert "Traceback" not in found(page, "The query is blank")


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_has_nothing_to_scroll_sideways(browser, address, scheme):
    tab = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
    tab.goto(address)
    tab.wait_for_selector("#classified .tc-bars")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.evaluate(wide) <= 0
    open_search(tab)
    assert tab.evaluate(wide) <= 0
    dark = tab.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    tab.close()


def test_two_users_at_once(browser, address):
    tabs = [browser.new_page() for _ in range(2)]
    for tab in tabs:
        tab.goto(address)
        tab.wait_for_selector("#classified .tc-bars")
    for number, tab in enumerate(tabs):
        tab.fill("#labels textarea", ", ".join(f"red {i}" for i in range(3 + number)))
        tab.click("#classify-button")
    for number, tab in enumerate(tabs):
        classified(tab, f"Encode {3 + number} labels")
        tab.close()


def test_the_server_asks_no_other_host(peers, page):
    open_search(page)
    assert peers <= {"127.0.0.1", "localhost", None}
    assert "127.0.0.1" in peers
