"""A desk with a bundle, its Hugging Face form and a photo, on which the code of the page runs."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared_builds import built_once

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "applications.md"
SECTION = r"^## {title}\n(?P<body>.*?)(?=^## |\Z)"
GOLDEN = 0  # text and picture of the golden vectors that stand in the page's code


@dataclass(frozen=True)
class Desk:
    folder: Path
    manifest: dict[str, Any]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundles" / "first"

    def golden(self, precision: str, tower: str) -> np.ndarray:
        text = self.manifest["golden"]["embeddings"][precision][tower]
        return np.frombuffer(base64.b64decode(text), "<f4").reshape(4, -1)

    def run(self, title: str) -> dict[str, Any]:
        """Execute the Python of a section of the page; return its names."""
        section = re.search(SECTION.format(title=title), PAGE.read_text(), re.M | re.S)
        (code,) = re.findall(r"^```python\n(.+?)^```", section["body"], re.M | re.S)
        names: dict[str, Any] = {}
        code = code.replace("dim=256", f"dim={self.manifest['embedding_dim']}")
        exec(compile(code, str(PAGE), "exec"), names)
        return names

    def differences(self, names: dict[str, Any], precision: str) -> tuple[float, float]:
        """Return the largest difference from the golden vectors: of texts, of pictures."""
        both = []
        for tower, key in (("text", "text_vectors"), ("image", "picture_vectors")):
            vector = np.asarray(names[key][0], np.float64).ravel()
            expected = self.golden(precision, tower)[GOLDEN]
            both.append(float(np.abs(vector / np.linalg.norm(vector) - expected).max()))
        return both[0], both[1]


@pytest.fixture(scope="session")
def written_desk(toy_teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The toy teacher as a bundle and as transformers' CLIPModel; nothing writes into it."""

    def build(folder: Path) -> None:
        from tinyclip_edge.models import load_clip, save_huggingface
        from tinyclip_export import export_bundle
        from tinyclip_export.settings import ExportSettings, Extras
        from toy_export import toy_pairs

        with_strings = find_spec("onnxruntime_extensions") is not None
        extras = Extras(embed_tokenizer=with_strings, embed_preprocessing=with_strings)
        clip = load_clip(str(toy_teacher_folder))
        export_bundle(
            clip,
            folder / "bundles/first",
            pairs=toy_pairs(),
            max_drop=100.0,
            settings=ExportSettings(extras=extras),
        )
        (folder / "huggingface").mkdir()
        save_huggingface(folder / "huggingface/first", clip)
        manifest = json.loads((folder / "bundles/first/manifest.json").read_text())
        picture = base64.b64decode(manifest["golden"]["images"][GOLDEN]["png"])
        Image.open(io.BytesIO(picture)).save(folder / "photo.png")

    folder = built_once(tmp_path_factory, "applications", build)
    return Desk(folder, json.loads((folder / "bundles/first/manifest.json").read_text()))


@pytest.fixture
def desk(written_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The desk as working folder; the page's text is a golden one."""
    monkeypatch.chdir(written_desk.folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert written_desk.manifest["golden"]["texts"][GOLDEN]["text"] == "a red heart"
    return written_desk
