"""Screenshots of the demo page: ``python demo/screenshots.py [--out DIR] [--url URL | options]``.

Without ``--url`` it starts ``tinyclip-edge demo`` with the options that follow. Needs playwright
(``pip install playwright``) and a Chromium: ``--chromium PATH``, default the first one on PATH.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.request import urlopen

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

    ColorScheme = Literal["light", "dark"]

WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
READY_SECONDS = 180
WORK_SECONDS = 600  # indexing, measuring, mining
INDEXED = "#found .tc-hits"


def main() -> None:
    """Read the command line and take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "screenshots")
    parser.add_argument("--url", help="address of a running demo")
    parser.add_argument("--own", type=Path, help="folder with a folder of pictures per label")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chrome"))
    args, demo_options = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.url:
        take(args.url, args.out, args.chromium, args.own)
        return
    port = free_port()
    command = [sys.executable, "-m", "tinyclip_edge", "demo", "--port", str(port), *demo_options]
    with subprocess.Popen(command) as server:
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_for(url, server)
            take(url, args.out, args.chromium, args.own)
        finally:
            server.terminate()


def take(url: str, out: Path, chromium: str | None, own: Path | None = None) -> None:
    """Save each tab to ``out``, one also in dark mode and one also at a phone's size.

    ``own`` is the folder for the Your pictures tab, which is left out without one.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = opened(browser, url, WIDE, "light")
        shoot(page, out / "classify.png")
        open_tab(page, "Search", INDEXED)
        shoot(page, out / "search.png")
        open_tab(page, "Measure", "#measured .tc-figures")
        shoot(page, out / "measure.png")
        open_tab(page, "Disagreements", "#mined .tc-pairs")
        shoot(page, out / "disagreements.png")
        if own is not None:
            compare_own(page, own)
            shoot(page, out / "own-pictures.png")
        page.close()
        page = opened(browser, url, WIDE, "dark")
        open_tab(page, "Measure", "#measured .tc-figures")
        shoot(page, out / "measure-dark.png")
        page.close()
        page = opened(browser, url, PHONE, "light")
        shoot(page, out / "classify-phone.png")
        browser.close()


def opened(browser: Browser, url: str, view: ViewportSize, scheme: ColorScheme) -> Page:
    """Return the page with all models loaded and one picture classified a second time."""
    page = browser.new_page(viewport=view, color_scheme=scheme)
    page.goto(url)
    done = "#classified:not(:has(.tc-wait)) .tc-bars"
    page.wait_for_selector(done, timeout=READY_SECONDS * 1000)
    # The first result came while models were loading, so its times mean nothing.
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Animals").click()
    page.wait_for_function("document.querySelector('#classified').innerText.includes('14 labels')")
    page.click("#classify-button")
    page.wait_for_timeout(1500)
    return page


def open_tab(page: Page, name: str, done: str) -> None:
    """Open a tab, which starts its work, and wait until it is done."""
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(done, timeout=WORK_SECONDS * 1000)


def compare_own(page: Page, own: Path) -> None:
    """Drop a folder, use the names of its subfolders as labels, and wait for the result."""
    page.get_by_role("tab", name="Your pictures").click()
    page.set_input_files("#own-files input[type=file]", own)
    page.wait_for_selector("#own-gallery .tc-gallery")
    labels = sorted(path.name.replace("_", " ") for path in own.iterdir() if path.is_dir())
    page.fill("#own-labels textarea", "\n".join(labels))
    page.click("#own-button")
    page.wait_for_selector("#own-compared .tc-confusion", timeout=WORK_SECONDS * 1000)


def shoot(page: Page, file: Path) -> None:
    """Wait until every picture is drawn, then save the whole page."""
    page.wait_for_function("[...document.images].every(image => image.complete)")
    page.mouse.move(0, 0)  # so that nothing looks hovered over
    page.wait_for_timeout(600)  # the tab's underline and the bars glide into place
    page.screenshot(path=file, full_page=True)
    # 256 colours are enough for flat artwork, at a third of the bytes.
    Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        file, optimize=True
    )
    sys.stdout.write(f"{file}\n")


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Return once the page responds; exit if the server ends or does not respond in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the demo ended with code {server.returncode}")
        try:
            with urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise SystemExit(f"the demo did not answer at {url} within {READY_SECONDS} s")


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
