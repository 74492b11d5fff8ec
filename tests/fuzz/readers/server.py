"""What clients send to the server."""

from __future__ import annotations

import base64
import io
import json
import random
from functools import cache
from pathlib import Path

from driver import Reader
from hostile import HOSTILE_BYTES, HOSTILE_JSON
from mutations import changed_json, named
from PIL import Image
from starlette.testclient import TestClient

from tiny_bundle import write_tiny_bundle
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.serve import create_app
from tinyclip_edge.serve.errors import RequestError

ROUTES = ("/embeddings", "/classify", "/search")


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@cache
def client(folder: Path) -> TestClient:
    """A server of a bundle and an index; errors that it does not answer come out of it."""
    clip = EdgeCLIP.load(write_tiny_bundle(folder / "bundle").folder)
    pictures = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    index = folder / "index.npz"
    clip.index(pictures, ["a", "\udcff.png"], metadata=[{"album": "é"}, {}]).save(index)
    opened = TestClient(create_app(clip, index=index), base_url="http://127.0.0.1")
    opened.__enter__()
    return opened


def bodies(_: Path) -> list[bytes]:
    texts = {"model": "m", "input": ["a cat", "é"], "encoding_format": "base64", "dimensions": 2}
    requests = (
        ("/embeddings", texts),
        ("/embeddings", {"input": picture(), "modality": "image"}),
        ("/classify", {"image": picture(), "labels": ["cat", "red"], "templates": ["a {}"]}),
        ("/search", {"text": "cat", "image": picture(), "without": ["red"], "min_score": -1}),
    )
    return [named(route, json.dumps(body).encode()) for route, body in requests]


def changed_body(rng: random.Random, valid: bytes) -> bytes:
    route, _, body = valid.partition(b"\n")
    return named(route.decode(), changed_json(rng, body))


def post(folder: Path, data: bytes) -> None:
    route, _, body = data.partition(b"\n")
    headers = {"content-type": "application/json"}
    response = client(folder).post(route.decode(), content=body, headers=headers)
    answer = response.json()
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        raise RequestError(answer["error"]["message"])


READERS = (
    Reader(
        "requests of the server",
        bodies,
        changed_body,
        post,
        [named(route, text) for route in ROUTES for text in HOSTILE_JSON + HOSTILE_BYTES],
        weight=0.5,
    ),
)
