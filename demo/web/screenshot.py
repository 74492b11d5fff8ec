"""Pictures of the browser page: ``python demo/web/screenshot.py BUNDLE [--ort DIR] [--out DIR]``.

Needs playwright (``pip install playwright``) and a Chromium: ``--chromium PATH``, default the first
one on PATH.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from pathlib import Path

VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1180, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1180, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
READY_MS = 180_000


def main() -> None:
    """Read the command line and save ``{light,dark,phone}.png`` after a self-test."""
    from playwright.sync_api import sync_playwright

    from tinyclip_demo.web import page_server

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--ort", type=Path, help="folder of onnxruntime-web")
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chrome"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with page_server(args.bundle, args.ort) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for name, options in VIEWS.items():
            page = browser.new_page(**options, device_scale_factor=1.5)
            page.set_default_timeout(READY_MS)
            page.goto(server.url)
            page.locator("#bars li").first.wait_for()
            page.click("#test")
            page.locator("#test-verdict").wait_for()
            page.locator("#samples button").nth(1).click()
            page.mouse.move(1, 1)
            page.wait_for_timeout(1500)
            file = args.out / f"{name}.png"
            page.screenshot(path=file, full_page=True)
            sys.stdout.write(f"{file}\n")
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
