"""The toy teacher as a bundle, which several rooms read: exporting takes seconds."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_export import ExportReport
    from tinyclip_export.settings import Extras

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


def write_toy_export(teacher: Path, folder: Path) -> None:
    """Export as fp32 and int8 into ``folder``, with the report beside the bundle."""
    from tinyclip_edge.models import load_clip
    from tinyclip_export import export_bundle

    clip = load_clip(str(teacher))
    report = export_bundle(clip, folder / "toy", pairs=toy_pairs(), max_drop=100.0)
    (folder / "report.pickle").write_bytes(pickle.dumps(report))


def export_for_target(
    target: str, teacher: Path, folder: Path, extras: Extras | None = None
) -> None:
    """Export with the settings of a target."""
    from tinyclip_edge.config.preset import load_preset
    from tinyclip_edge.models import load_clip
    from tinyclip_export import export_bundle
    from tinyclip_export.settings import ExportSettings, Extras

    preset = load_preset(target)
    settings = ExportSettings(preset, extras or Extras())
    clip = load_clip(str(teacher))
    export_bundle(
        clip, folder, precisions=preset.precisions, pairs=toy_pairs(), max_drop=100.0,
        settings=settings,
    )  # fmt: skip


def read_toy_export(teacher: Path, folder: Path) -> ToyExport:
    """Read what ``write_toy_export`` left."""
    from tinyclip_edge.models import load_clip

    report = pickle.loads((folder / "report.pickle").read_bytes())
    return ToyExport(load_clip(str(teacher)), folder / "toy", report, toy_pairs())
