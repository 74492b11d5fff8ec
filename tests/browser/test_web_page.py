"""The page without a server side, in Chromium: every way in, every message, all manners."""

import base64
import json

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
)

pytestmark = MARKS


@pytest.fixture(scope="module")
def first_view(browser, server):
    """The page as it opens. Shared: change nothing in it."""
    with silent_tab(browser) as page:
        open_page(page, server)
        yield page


def test_a_first_answer_the_model_s_facts_and_the_backend_are_there(first_view, bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    shares = [chance for _, chance in chances(first_view)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert "%" in first_view.inner_text("#verdict")
    times = first_view.inner_text("#times")
    for word in ("Preprocessing", "Encode", "Compare", "Frame", "8 texts encoded once in"):
        assert word in times
    facts = first_view.inner_text("#facts")
    needed = [manifest["towers"][tower]["int8"] for tower in ("image", "text")]
    size = sum(
        manifest["files"][name]["bytes"]
        for name in [*needed, "tokenizer.json", "preprocessor_config.json"]
    )
    shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
    for word in (
        manifest["name"], manifest["model_hash"][:16], "int8", shown, "SHA-256 checked",
        "32 × 32 pixels, 16 tokens", "64 dimensions",
    ):  # fmt: skip
        assert word in facts
    assert badges(first_view)[:2] == ["WASM", "int8"]


def test_threads_are_on_because_the_page_is_isolated(first_view):
    assert first_view.evaluate("crossOriginIsolated")
    cores = first_view.evaluate("navigator.hardwareConcurrency")
    threads = min(cores, 4)
    assert badges(first_view)[2:5] == [
        "1 thread" if threads == 1 else f"{threads} threads", "SIMD", "isolated",
    ]  # fmt: skip


@pytest.mark.slow
def test_threads_and_precision_can_be_selected(tab):
    tab.select_option("#threads", "1")
    tab.locator("#badges", has_text="1 thread").wait_for()
    tab.locator("#status").wait_for(state="hidden")
    tab.select_option("#precision", "fp32")
    tab.locator("#badges", has_text="fp32").wait_for()
    tab.locator("#bars li").first.wait_for()
    assert badges(tab)[:3] == ["WASM", "fp32", "1 thread"]


@pytest.mark.slow
def test_a_picture_is_selected_dropped_and_pasted(tab, tmp_path):
    for number, way in enumerate(["choose", "drop", "paste"]):
        path = tmp_path / f"{way}.png"
        picture(50 + number, 40, seed=number).save(path)
        if way == "choose":
            tab.set_input_files("#file", path)
        else:
            content = base64.b64encode(path.read_bytes()).decode()
            tab.evaluate(HAND_OVER, [way, path.name, content])
        tab.locator("#times", has_text=f"{50 + number} × 40").wait_for()
        assert tab.get_attribute("#picture", "alt") == path.name


HAND_OVER = """([way, name, content]) => {
  const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const target = document.getElementById("drop");
  const event = way === "drop"
    ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
  target.dispatchEvent(event);
}"""


@pytest.mark.slow
def test_camera_frames_are_classified_until_it_is_stopped(tab):
    tab.click("#live")
    tab.locator("#times", has_text="frames per second").wait_for()
    assert tab.get_attribute("#live", "aria-pressed") == "true"
    assert tab.get_attribute("#verdict", "aria-live") == "off"
    assert tab.evaluate("document.getElementById('camera').videoWidth") > 0
    type_labels(tab, LABELS)
    assert {label for label, _ in chances(tab)} == set(LABELS)
    tab.click("#live")
    tab.locator("#times", has_text="Picture of 64 × 64").wait_for()
    assert tab.inner_text("#live") == "Start camera"
    assert tab.is_visible("#picture")
    assert tab.evaluate("document.getElementById('camera').srcObject === null")


def test_what_a_user_writes_is_text(tab):
    type_labels(tab, ["<b id=evil>red</b>", "${1+1} $& blue", "__proto__", "green"], "a {} $1")
    assert {"<b id=evil>red</b>", "${1+1} $& blue", "__proto__"} <= {x for x, _ in chances(tab)}
    assert tab.locator("#evil").count() == 0


@pytest.mark.slow
def test_another_bundle_is_opened_from_a_folder(tab, altered):
    change_manifest(altered, lambda content: content.update(name="from a folder"))
    tab.set_input_files("#folder", altered)
    tab.locator("#facts", has_text="from a folder").wait_for()
    tab.locator("#bars li").first.wait_for()


def test_keyboard_alone_reaches_everything(tab):
    reached = set()
    tab.locator("body").press("Tab")
    for _ in range(40):
        reached.add(tab.evaluate("document.activeElement.id"))
        tab.keyboard.press("Tab")
    assert {
        "file", "live", "labels", "templates", "precision", "backend", "threads", "folder", "test",
    } <= reached  # fmt: skip
    tab.focus("#labels")
    tab.keyboard.press("Control+A")
    tab.keyboard.type("green, blue")
    tab.locator("#bars", has_text="green").wait_for()


@pytest.mark.slow
def test_everything_that_acts_has_a_name(first_view):
    nameless = first_view.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea, img, video')]"
        ".filter(e => !(e.ariaLabel || e.alt || e.innerText || e.closest('label')"
        " || e.querySelector?.('img[alt]') || e.hidden)).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert first_view.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_phone_width_has_nothing_to_scroll_sideways(browser, server, scheme):
    size = {"width": 360, "height": 800}
    with silent_tab(browser, viewport=size, color_scheme=scheme) as tab:
        open_page(tab, server)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.evaluate(wide) <= 0
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(15, 17, 21)"}[scheme]
