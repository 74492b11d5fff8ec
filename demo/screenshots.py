"""Pictures of the demo page: ``python demo/screenshots.py --out DIR [--url URL | demo options …]``.

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
from typing import TYPE_CHECKING
from urllib.request import urlopen

if TYPE_CHECKING:
    from playwright.sync_api import Page

VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}
READY_SECONDS = 180
INDEX_SECONDS = 600


def main() -> None:
    """Read the command line, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--url", help="a demo that runs already")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chrome"))
    parser.add_argument("--views", nargs="+", choices=list(VIEWS), default=list(VIEWS))
    args, demo_options = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.url:
        take(args.url, args.out, args.chromium, args.views)
        return
    port = free_port()
    command = [sys.executable, "-m", "tinyclip_edge", "demo", "--port", str(port), *demo_options]
    with subprocess.Popen(command) as server:
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_for(url, server)
            take(url, args.out, args.chromium, args.views)
        finally:
            server.terminate()


def take(url: str, out: Path, chromium: str | None, views: list[str]) -> None:
    """Write ``{classify,search}-{view}.png`` into ``out``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name in views:
            page = browser.new_page(**VIEWS[name], device_scale_factor=2)
            page.goto(url)
            page.wait_for_selector("#classified .tc-bars", timeout=READY_SECONDS * 1000)
            shoot(page, out / f"classify-{name}.png")
            page.get_by_role("tab", name="Search").click()
            page.wait_for_selector("#found .tc-hits", timeout=INDEX_SECONDS * 1000)
            shoot(page, out / f"search-{name}.png")
            page.close()
        browser.close()


def shoot(page: Page, file: Path) -> None:
    """Wait until every picture is drawn, then write the whole page."""
    page.wait_for_function("[...document.images].every(image => image.complete)")
    page.wait_for_timeout(400)  # the tab's underline and the bars glide into place
    page.screenshot(path=file, full_page=True)
    sys.stdout.write(f"{file}\n")


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Return when the page answers; end the script when the server ended or stays silent."""
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
