"""What the tests with other people's clients share: fixed inputs, PyTorch's answers, a server."""

from __future__ import annotations

from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent / "clients"
PACKAGES = HERE / "node_modules"
LABELS = ["a red circle", "the cat", "a blue bicycle", "dog"]
# Words the toy tokenizer knows whole, words it spells, and signs of several bytes. All fit into the
# context: transformers.js cuts a longer text's end token off, see test_node_clients.py.
TEXTS = ["a photo of the cat", "Bicycles, 42 & I'm", "naïve 日 🎉", ""]
LONG = "dog " * 40
STANDALONE = "alone"  # the same bundle with a pipeline file that has weights of its own
INSTALL = "run make clients"


@dataclass(frozen=True)
class Opened:
    """A bundle among the models that a client may open, and what PyTorch says to fixed inputs."""

    models: Path
    name: str
    size: int
    pixels: np.ndarray  # float32 [2, 3, S, S]
    image: np.ndarray  # uint8 [S, S, 3], of the model's size: no client resizes it
    ids: list[list[int]]
    context: int  # tokens
    end: int  # id of the end token
    image_embeds: np.ndarray
    text_embeds: np.ndarray
    scores: dict[str, float]
    cosine: dict[str, dict[str, float]]  # dtype -> tower -> what the bundle's verification found

    def job(self, dtype: str, **more: Any) -> dict[str, Any]:
        return {
            "model": self.name,
            "dtype": dtype,
            "size": self.size,
            "pixels": [row.ravel().tolist() for row in self.pixels],
            "texts": TEXTS,
            "long": LONG,
            "image": self.image.ravel().tolist(),
            "labels": LABELS,
            **more,
        }

    def check(self, dtype: str, answer: dict[str, Any]) -> None:
        """Compare a client's answer with PyTorch's."""
        for text, ids, expected in zip(TEXTS, answer["ids"], self.ids, strict=True):
            assert ids == expected, text
        for tower, expected in (("image", self.image_embeds), ("text", self.text_embeds)):
            cosine = (np.array(answer[f"{tower}_embeds"]) * expected).sum(axis=1)
            assert cosine.min() >= self.cosine[dtype][tower], (dtype, tower)
        ids = {entry["label"]: entry["score"] for entry in answer["scores"]}
        tolerance = 1e-4 if dtype == "fp32" else 0.03
        assert ids == pytest.approx(self.scores, abs=tolerance)
        assert [e["score"] for e in answer["scores"]] == sorted(ids.values(), reverse=True)


class FileHandler(SimpleHTTPRequestHandler):
    """Serves the page, the packages and the models; logs nothing."""

    models: Path

    def translate_path(self, path: str) -> str:
        if path.startswith("/models/"):
            return str(self.models / path.removeprefix("/models/"))
        return super().translate_path(path)

    def log_message(self, *_: object) -> None:
        pass
