"""One toy bundle for all tests of this room: exporting takes seconds."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from shared_builds import built_once

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_export import ExportReport

COLOURS, THINGS = ("red", "blue", "big"), ("dog", "square", "circle", "bicycle")


@dataclass(frozen=True)
class ToyExport:
    clip: LoadedClip
    folder: Path
    report: ExportReport
    pairs: tuple[list[Image.Image], list[str]]


def toy_pairs() -> tuple[list[Image.Image], list[str]]:
    """Twelve noise pictures of uneven size, each with a caption of its own."""
    random = np.random.default_rng(0)
    texts = [f"a photo of the {colour} {thing}" for colour in COLOURS for thing in THINGS]
    images = [
        Image.fromarray(random.integers(0, 256, (30 + i, 44 - i, 3), dtype=np.uint8))
        for i in range(len(texts))
    ]
    return images, texts


@pytest.fixture(scope="session")
def exported(toy_teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyExport:
    """The toy teacher as a bundle. Shared: do not write into it."""
    from tinyclip_edge.models import load_clip
    from tinyclip_export import export_bundle

    clip, pairs = load_clip(str(toy_teacher_folder)), toy_pairs()

    def build(folder: Path) -> None:
        report = export_bundle(clip, folder / "toy", pairs=pairs, max_drop=100.0)
        (folder / "report.pickle").write_bytes(pickle.dumps(report))

    folder = built_once(tmp_path_factory, "export", build)
    report = pickle.loads((folder / "report.pickle").read_bytes())
    return ToyExport(clip, folder / "toy", report, pairs)
