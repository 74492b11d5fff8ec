"""Load on ``tinyclip-edge serve``: many clients at once, lost responses, times, memory.

Each client sends one request after another: four texts, a picture, or a classification. Responses
are compared with the library's results. Finally, a signal ends the busy server, which must still
answer the requests under way.

    python benchmarks/serve_load.py --bundle bundles/mine --out benchmarks/results/serve-load.json
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
from PIL import Image

from machine import machine_facts
from tinyclip_edge import EdgeCLIP

TEXTS = ["a cat", "a red bicycle in the rain", "two birds", "a house"]
LABELS = ["cat", "dog", "house", "tree"]
CLOSE = 0.98  # cosine: dynamic int8 depends on what shares the batch


def pictures() -> list[bytes]:
    generator = np.random.default_rng(0)
    files = []
    for _ in range(8):
        file = io.BytesIO()
        pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def requests(files: list[bytes]) -> list[tuple[str, str, dict[str, Any]]]:
    urls = ["data:image/jpeg;base64," + base64.b64encode(file).decode() for file in files]
    return [
        ("texts", "/v1/embeddings", {"input": TEXTS}),
        *(("picture", "/v1/embeddings", {"input": [url]}) for url in urls),
        ("classify", "/classify", {"image": urls[0], "labels": LABELS}),
    ]


async def client(
    http: httpx.AsyncClient, work: list[Any], number: int, end: float, log: list[Any]
) -> None:
    while time.perf_counter() < end:
        kind, route, body = work[number % len(work)]
        number += 1
        started = time.perf_counter()
        try:
            response = await http.post(route, json=body)
            log.append((kind, response.status_code, time.perf_counter() - started, response, body))
        except httpx.HTTPError as error:
            log.append((kind, type(error).__name__, time.perf_counter() - started, None, body))
        if len(log[-1]) and number % 50:  # a sample is compared with the library
            log[-1] = (*log[-1][:3], None, None)


async def load(
    address: str, work: list[Any], arguments: argparse.Namespace, server: psutil.Process
) -> tuple[list[Any], list[float]]:
    limits = httpx.Limits(max_connections=arguments.clients)
    log: list[Any] = []
    memory: list[float] = []
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as http:
        end = time.perf_counter() + arguments.seconds
        tasks = [
            asyncio.create_task(client(http, work, n, end, log)) for n in range(arguments.clients)
        ]
        while not all(task.done() for task in tasks):
            memory.append(server.memory_info().rss / 2**20)
            await asyncio.sleep(1)
        await asyncio.gather(*tasks)
    return log, memory


async def end_while_busy(address: str, work: list[Any], server: subprocess.Popen[str]) -> list[Any]:
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        answers = [asyncio.create_task(http.post(work[n % 9][1], json=work[n % 9][2]))
                   for n in range(40)]  # fmt: skip
        await asyncio.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        return await asyncio.gather(*answers, return_exceptions=True)


def compared(log: list[Any], clip: EdgeCLIP) -> float:
    """Return the lowest cosine between a sampled embedding and the library's."""
    lowest = 1.0
    for kind, _, _, response, body in log:
        if response is None or kind == "classify" or response.status_code != 200:
            continue
        vectors = np.array([row["embedding"] for row in response.json()["data"]], np.float32)
        inputs = body["input"]
        own = clip.encode_text(inputs) if kind == "texts" else clip.encode_image(
            [base64.b64decode(url.partition(",")[2]) for url in inputs]
        )  # fmt: skip
        lowest = min(lowest, float((vectors * own).sum(axis=1).min()))
    return lowest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "tinyclip_edge", "serve", str(arguments.bundle), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = server.stderr.readline().split()[-1]
    work = requests(pictures())
    while True:
        try:
            httpx.get(f"{address}/health")
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    log, memory = asyncio.run(load(address, work, arguments, psutil.Process(server.pid)))
    last = asyncio.run(end_while_busy(address, work, server))
    code = server.wait(60)
    times = sorted(entry[2] for entry in log)
    figures: dict[str, Any] = {
        "machine": machine_facts(),
        "clients": arguments.clients,
        "seconds": arguments.seconds,
        "answers": len(log),
        "lost": sum(entry[1] != 200 for entry in log),
        "a_second": round(len(log) / arguments.seconds, 1),
        "p50_s": round(statistics.median(times), 3),
        "p95_s": round(times[int(0.95 * len(times))], 3),
        "memory_mb_after_10_s": round(max(memory[:11])),
        "memory_mb_at_most": round(max(memory)),
        "lowest_cosine_to_library": round(compared(log, EdgeCLIP.load(arguments.bundle)), 4),
        "answered_after_sigterm": sum(getattr(a, "status_code", 0) == 200 for a in last),
        "of": len(last),
        "exit_code": code,
    }
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
