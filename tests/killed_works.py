"""What a test kills in a fresh process, which imports it by its name."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image

from tinyclip_edge import report
from tinyclip_edge.config import RunConfig
from tinyclip_edge.models import load_clip
from tinyclip_edge.train import distill
from tinyclip_edge.train.caching import cache_features
from tinyclip_edge.train.feature_cache.progress import ProgressLines
from toy_runs import Watcher


def go_on(config: RunConfig, out: Path) -> None:
    """Start a run, or go on with it."""
    torch.set_num_threads(1)
    report.write_final_report = lambda *_, **__: None  # it takes longer than a toy run
    distill(config, out, resume=(out / "config.yaml").exists(), observer=Watcher())


def fill(config: RunConfig) -> None:
    """Fill a feature cache."""
    torch.set_num_threads(1)
    cache_features(config, ProgressLines(Watcher()))


def export(model: Path, out: Path, scratch: Path, towers: Path | None = None) -> None:
    """Export a model as float32, with ``scratch`` for what Python's tempfile makes.

    ``towers`` is a folder of the graphs of its towers, which are copied instead of traced.
    """
    from tinyclip_export import export_bundle
    from tinyclip_export.onnx_passes import exporter

    if towers is not None:

        def copied(_tower: torch.nn.Module, path: Path, **_options: object) -> None:
            shutil.copyfile(towers / path.name, path)

        exporter.export_image_tower = exporter.export_text_tower = copied

    tempfile.tempdir = str(scratch)
    torch.set_num_threads(1)
    images = [Image.new("RGB", (40, 30), (9 * n, 250 - 9 * n, 99)) for n in range(8)]
    pairs = (images, [f"a photo of {n} cats" for n in range(8)])
    clip = load_clip(str(model))
    export_bundle(clip, out, pairs=pairs, precisions=("fp32",), max_drop=100.0)
