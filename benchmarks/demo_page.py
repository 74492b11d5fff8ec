"""Cost of the demo page: start, round trip, full queue, 200 hostile uploads.

    python benchmarks/demo_page.py --models starter-teacher bundles/quickstart \
        --out benchmarks/results/demo-page.json

The server is ``tinyclip-edge demo`` in a separate process, the visitor headless Chromium or plain
HTTP. "Own" times are those of the models, as displayed on the page.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import httpx
from PIL import Image

from demo_hostile import hostile_uploads
from machine import machine_facts
from written import print_result

if TYPE_CHECKING:
    from playwright.sync_api import Page

START_SECONDS = 180
ORDINARY = 150  # visitors before memory is measured: more than the server's sessions
TEMPLATE = "{}"
LABELS = "cat, dog, horse, bicycle, umbrella, rocket"
# Resolves with the milliseconds from the click to the new answer in the page.
ROUND_TRIP = """labels => new Promise(resolve => {
  const answer = document.querySelector('#classified');
  const wanted = `Encode ${labels} labels`;
  const watch = new MutationObserver(() => {
    if (!answer.innerText.includes(wanted)) return;
    watch.disconnect();
    resolve(performance.now() - began);
  });
  watch.observe(answer, {childList: true, subtree: true, characterData: true});
  const began = performance.now();
  document.querySelector('#classify-button').click();
})"""


class Server:
    """``tinyclip-edge demo`` in a separate process."""

    def __init__(self, models: Sequence[str], folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/"
        teacher, *students = models
        options = ["--teacher", teacher]
        for student in students or [teacher]:
            options += ["--student", student]
        caches = {"GRADIO_TEMP_DIR": str(folder / "gradio"), "XDG_CACHE_HOME": str(folder)}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tinyclip_edge", "demo", "--port", str(self.port), *options],
            env={**os.environ, **caches},
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        """Return once the page responds."""
        while self.process.poll() is None and self.seconds() < START_SECONDS:
            try:
                urlopen(self.url, timeout=5).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise SystemExit(f"the demo did not answer at {self.url}")

    def seconds(self) -> float:
        """Return the seconds since the command."""
        return time.perf_counter() - self.began

    def processor_seconds(self) -> float:
        """Return the processor time of the server's threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        """Return the server's resident memory in 10^6 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024 / 1e6

    def alive(self) -> bool:
        """Whether the server still runs."""
        return self.process.poll() is None


@contextmanager
def serving(models: Sequence[str]) -> Iterator[Server]:
    """Yield a running demo of these models, and end it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(models, Path(folder))
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait()


@contextmanager
def visited() -> Iterator[Page]:
    """Yield an empty page of headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def measure_start(models: Sequence[str]) -> dict[str, float]:
    """Return seconds from the command to a usable page, and to its first answer."""
    with visited() as page, serving(models) as server:
        server.wait()
        answers = server.seconds()
        page.goto(server.url, wait_until="commit")
        page.wait_for_selector("#classify-button")
        page.fill("#labels textarea", LABELS)  # works only once the page is usable
        usable, processor = server.seconds(), server.processor_seconds()
        page.wait_for_selector("#classified .tc-bars", timeout=START_SECONDS * 1000)
        return {
            "server_answers_s": round(answers, 2),
            "usable_s": round(usable, 2),
            "usable_server_cpu_s": round(processor, 2),
            "first_answer_s": round(server.seconds(), 2),
        }


def measure_round_trip(server: Server, repeats: int) -> dict[str, float]:
    """Return milliseconds from click to answer beyond the models' own time."""
    with visited() as page:
        page.goto(server.url)
        page.wait_for_selector(
            "#classified:not(:has(.tc-wait)) .tc-bars", timeout=START_SECONDS * 1000
        )
        trips, model_times = [], []
        for number in range(repeats + 2):
            if number == 2:  # the first two are left out
                began = server.processor_seconds()
            # The count alternates, so that the old answer is not mistaken for the new one.
            count = 3 + number % 2
            page.fill("#labels textarea", ", ".join(LABELS.split(", ")[:count]))
            trips.append(page.evaluate(ROUND_TRIP, count))
            model_times.append(model_milliseconds(page.inner_html("#classified")))
        processor = (server.processor_seconds() - began) / repeats
    added = [trip - model_time for trip, model_time in zip(trips, model_times, strict=True)][2:]
    return {
        "repeats": repeats,
        "server_cpu_ms": round(1e3 * processor, 1),  # with the models
        "median_added_ms": round(statistics.median(added), 1),
        "p95_added_ms": round(sorted(added)[int(0.95 * (len(added) - 1))], 1),
        "median_own_ms": round(statistics.median(model_times[2:]), 1),
    }


def model_milliseconds(html: str) -> float:
    """Return the sum of all times that an answer shows."""
    return sum(float(number) for number in re.findall(r">([\d.]+) ms<", html))


class Visitor:
    """A client of the page's HTTP interface: upload, request, wait for the answer."""

    def __init__(self, url: str) -> None:
        self._api = f"{url}gradio_api/"
        self._client = httpx.Client(timeout=300)

    def upload(self, name: str, content: bytes) -> str:
        """Return the path under which the server stores the file."""
        response = self._client.post(f"{self._api}upload", files={"files": (name, content)})
        return str(response.raise_for_status().json()[0])

    def classify(self, path: str, labels: str) -> str:
        """Return the stream of events of one request; each call is a new visitor."""
        picture = {
            "path": path,
            "meta": {"_type": "gradio.FileData"},
        }  # as the page itself sends it
        content = {"data": [picture, labels, TEMPLATE, None]}
        response = self._client.post(f"{self._api}call/classify", json=content)
        event = response.raise_for_status().json()["event_id"]
        return self._client.get(f"{self._api}call/classify/{event}").text


def measure_queue(server: Server, clients: int = 4, requests: int = 20) -> dict[str, float]:
    """Return answered requests and seconds for clients that send all their requests at once.

    Each request has a different number of labels, which identifies its answer.
    """
    red = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(red, "png")
    visitors = [Visitor(server.url) for _ in range(clients)]
    paths = [visitor.upload("red.png", red.getvalue()) for visitor in visitors]

    def request(number: int) -> bool:
        labels = ", ".join(f"thing {i}" for i in range(2 + number))
        stream = visitors[number % clients].classify(paths[number % clients], labels)
        return "event: complete" in stream and f"Encode {2 + number} labels" in stream

    began = time.perf_counter()
    with ThreadPoolExecutor(requests) as pool:
        answered = sum(pool.map(request, range(requests)))
    seconds = round(time.perf_counter() - began, 2)
    return {"clients": clients, "requests": requests, "answered": answered, "seconds": seconds}


def measure_hostile(server: Server, count: int = 200) -> dict[str, float]:
    """Send hostile uploads to a server in use; return readable refusals and memory growth."""
    visitor = Visitor(server.url)
    blue = io.BytesIO()
    Image.new("RGB", (640, 480), "blue").save(blue, "png")

    def classify(name: str, content: bytes) -> str:
        return visitor.classify(visitor.upload(name, content), LABELS)

    for _ in range(ORDINARY):
        classify("ordinary.png", blue.getvalue())
    before = server.megabytes()
    streams = [classify(name, content) for name, content in hostile_uploads(count)]
    after = server.megabytes()
    return {
        "uploads": count,
        "told": sum("tc-problem" in text for text in streams),
        "opened": sum("tc-bars" in text for text in streams),
        "alive": server.alive() and "tc-bars" in classify("ordinary.png", blue.getvalue()),
        "before_mb": round(before, 1),
        "after_mb": round(after, 1),
        "memory_change": round(after / before - 1, 4),
    }


def main() -> None:
    """Measure everything, print it, and write it to ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["starter-teacher"])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    machine = machine_facts()
    starts = [measure_start(args.models) for _ in range(args.starts)]
    results: dict[str, Any] = {
        "command": ["python", "benchmarks/demo_page.py", "--models", *map(_name, args.models)],
        "machine": machine,
        "starts": starts,
    }
    with serving(args.models) as server:
        server.wait()
        results["round_trip"] = measure_round_trip(server, repeats=30)
        results["queue"] = measure_queue(server)
        results["hostile"] = measure_hostile(server)
    print_result(results, args.out)


def _name(model: str) -> str:
    return Path(model).name if Path(model).is_absolute() else model


if __name__ == "__main__":
    main()
