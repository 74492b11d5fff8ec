"""A demo page of models that know three colours, and what the tests do on it."""

import shutil
import socket
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tinyclip_demo.app import build_app, serve
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_edge.runtime.protocol import EmbedderSpec

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
HUES = {"red": (220, 40, 40), "green": (40, 160, 70), "blue": (40, 90, 220)}
ANSWER_MS = 120_000  # to notice a page that never answers, not a slow machine


class HueModel:
    """Sees the mean colour of the middle; knows the three colour words, in any sentence."""

    logit_scale = 20.0

    def __init__(self, name, runtime, precision, swapped=False):
        self.name = name
        self.spec = EmbedderSpec(64, 3, 1_000_000, 10, 4_000_000, runtime, precision)
        self.order = ["green", "red", "blue"] if swapped else ["red", "green", "blue"]

    def encode_image(self, images):
        pictures = [
            Image.fromarray(image) if isinstance(image, np.ndarray) else image for image in images
        ]
        middles = [np.asarray(image.convert("RGB").resize((9, 9)))[3:6, 3:6] for image in pictures]
        return self.unit([middle.reshape(-1, 3).mean(0) for middle in middles])

    def encode_text(self, texts):
        return self.unit([[float(hue in text) for hue in self.order] for text in texts])

    @staticmethod
    def unit(rows):
        rows = np.asarray(rows, dtype=np.float32) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def hue_picture(hue, edge=64):
    image = Image.new("RGB", (edge, edge), "white")
    ImageDraw.Draw(image).ellipse([6, 6, edge - 7, edge - 7], fill=HUES[hue])
    return image


@contextmanager
def served(indexes):
    """A demo page on a free port; yields its address."""
    names = [f"{hue} disc" for hue in HUES for _ in range(20)]
    pictures = tuple(hue_picture(name.split()[0]) for name in names)
    gallery = Gallery("discs", pictures, tuple(names), label_examples=True)
    models = [
        HueModel("teacher", "torch", "fp32"),
        HueModel("student", "torch", "fp32"),
        HueModel("student", "onnxruntime", "int8", swapped=True),
    ]
    service = DemoService(
        ModelRegistry(models), gallery, index_folder=indexes, runs=indexes / "runs"
    )
    page = build_app(service)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    serve(page, host="127.0.0.1", port=port)
    yield f"http://127.0.0.1:{port}/"
    page.close(verbose=False)


@contextmanager
def recorded_hosts():
    """Yield the set of hosts that this process connects to or looks up, as it grows."""
    hosts = set()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def noted_connect(self, peer):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            hosts.add(peer[0])
        return connect(self, peer)

    def noted_look_up(host, *args, **kwargs):
        hosts.add(host)
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", noted_connect)
        patch.setattr(socket, "getaddrinfo", noted_look_up)
        yield hosts


@contextmanager
def open_page(browser, address, *, console=(), **view):
    """An open page; at the end it must have been silent and have asked nobody else.

    ``console``: words of errors that the browser itself writes there.
    """
    tab = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **view})
    errors, hosts = [], set()

    def noted(line):
        # gradio asks for the progress of an upload that has already ended, and is told 404.
        if line.type == "error" and "/upload_progress?" not in line.location["url"]:
            errors.append(f"{line.text} {line.location['url']}")

    tab.on("console", noted)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: hosts.add(urlsplit(request.url)))
    tab.set_default_timeout(ANSWER_MS)
    tab.goto(address)
    tab.wait_for_selector("#classified .tc-bars")
    yield tab
    tab.close()
    assert [line for line in errors if not any(word in line for word in console)] == []
    assert {url.hostname for url in hosts if url.scheme not in ("data", "blob")} == {"127.0.0.1"}


def note(page, where, text):
    """Wait until a part of the page says the text, in whatever case; return all it says."""
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.innerText.toLowerCase()"
        ".includes(text.toLowerCase())",
        arg=[where, text],
    )
    return page.inner_text(where)


def classified(page, text):
    return note(page, "#classified", text)


def results_of(page, text):
    return note(page, "#found", text)


def first_hit(page, caption):
    """Wait until the first model's first picture is this one."""
    page.wait_for_function(
        "caption => document.querySelector('#found .tc-hits p')?.innerText == caption",
        arg=caption,
    )


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def open_search(page):
    open_tab(page, "Search")
    page.wait_for_selector("#found .tc-hits")


def upload(page, path):
    page.set_input_files("#image input[type=file]", str(path))


def query(page, text):
    """Search for a text."""
    page.fill("#query textarea, #query input", text)
    page.press("#query textarea, #query input", "Enter")


def labels(page, text):
    """Classify the open picture by these labels."""
    page.fill("#labels textarea", text)
    page.click("#classify-button")
