"""What the tests of the browser page share: a toy bundle, a server, a tab that must stay silent."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from answering import answering
from bundle_clients import INSTALL, PACKAGES
from toy_export import ToyExport

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
    pytest.mark.skipif(
        not (PACKAGES / "onnxruntime-web").is_dir(),
        reason=f"the package onnxruntime-web is not installed: {INSTALL}",
    ),
]
ARGUMENTS = [
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
# A GPU in software, slow and right.
GPU_ARGUMENTS = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
ANSWER_MS = 120_000
LABELS = ["a red circle", "the cat", "a blue bicycle", "dog", "naïve 42 & 日"]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """An opaque picture of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def add_pixel_towers(exported: ToyExport, folder: Path) -> None:
    """Copy the toy bundle into ``folder``, with towers that resize pictures by themselves."""
    from tinyclip_edge.runtime.bundle import Manifest, list_files
    from tinyclip_export.bundle.uint8_image_tower import write_pixel_towers

    shutil.copytree(exported.folder, folder, dirs_exist_ok=True)
    towers = write_pixel_towers(exported.clip, folder, ["fp32", "int8"])
    manifest = Manifest.read(folder)
    extras = {**manifest.extras, "uint8": towers}
    replace(manifest, extras=extras, files=list_files(folder)).write(folder)


def change_manifest(folder: Path, change: Any) -> None:
    """Let ``change`` edit the manifest's JSON in place."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def serving(bundle: Path) -> contextlib.AbstractContextManager[Any]:
    """A server of the page for a bundle, on a free port of this machine."""
    from tinyclip_demo.web import page_server

    return answering(page_server(bundle, PACKAGES.parent))


@contextlib.contextmanager
def running_chromium(*more: str) -> Iterator[Any]:
    """Chromium with a camera that shows a test picture, and with more arguments."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *more])
        yield chromium
        chromium.close()


@contextlib.contextmanager
def silent_tab(browser: Any, *, missing: bool = False, **options: Any) -> Iterator[Any]:
    """A tab; at the end it must have logged no error and have asked nobody but this machine.

    ``missing`` allows Chromium's own line about an answer 404.
    """
    tab = browser.new_page(**options)
    errors, hosts = [], set()
    tab.on("console", lambda line: errors.append(line.text) if line.type != "debug" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: hosts.add(urlsplit(request.url)))
    tab.set_default_timeout(ANSWER_MS)
    yield tab
    tab.close()
    if missing:
        errors = [text for text in errors if "404" not in text]
    assert errors == [], errors  # shown: pytest rewrites no assertion of this module
    assert {url.hostname for url in hosts if url.scheme not in ("data", "blob")} == {"127.0.0.1"}


def open_page(tab: Any, server: Any, query: str = "") -> None:
    """Go to the page and wait until its model answers."""
    tab.goto(server.url + query)
    tab.locator("#bars li").first.wait_for()
    tab.locator("#status").wait_for(state="hidden")


def wait_until(tab: Any, expression: str) -> None:
    """Wait until an expression is true; the page's policy lets no script of ours poll it there."""
    end = time.monotonic() + ANSWER_MS / 1000
    while not tab.evaluate(expression):
        assert time.monotonic() < end, expression
        tab.wait_for_timeout(20)


def type_labels(tab: Any, labels: list[str], templates: str = "{}") -> None:
    tab.fill("#templates", templates)
    tab.fill("#labels", "\n".join(labels))
    tab.locator(f"#bars:has(li:nth-child({len(labels)}):last-child)", has_text=labels[0]).wait_for()


def chances(tab: Any) -> list[tuple[str, float]]:
    """Labels and probabilities as shown, best first."""
    return [
        (row[0], row[1])
        for row in tab.evaluate(
            "[...document.querySelectorAll('#bars li')].map(row =>"
            " [row.firstChild.textContent, Number(row.querySelector('.bar > i').dataset.chance)])"
        )
    ]


def badges(tab: Any) -> list[str]:
    return tab.locator("#badges span").all_inner_texts()


def self_test(tab: Any) -> tuple[str, list[list[str]]]:
    """Run the self-test; its verdict and the cells of its rows."""
    tab.click("#test")
    tab.locator("#test-verdict").wait_for()
    rows = [row.split("\t") for row in tab.locator("#test-rows tr").all_inner_texts()]
    return tab.inner_text("#test-verdict"), rows
