"""Students of today's families from start to bundle: masks, inheritance, int8, all verified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from families import FAMILIES, family
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.train import distill, read_events
from tinyclip_export import export_bundle

pytestmark = pytest.mark.slow

COLOURS = ("red", "blue", "green", "black")
SHAPES = ("square", "circle", "cat", "dog", "star", "house", "tree", "fish")
HALF = {"vision_cfg": {"width": 32, "layers": 2}, "text_cfg": {"width": 32, "layers": 2}}
WAYS = {
    "masks": {
        "student": {"keep": 0.5},
        "inherit": {"method": "masks"},
        "masks": {"lr": 0.9, "lambda_lr": 1.0, "warmup": 0.4, "prune": 6, "extra": 2},
    },
    "importance": {"inherit": {"plan": "importance", "calibration": 16}},
}


def noise(count):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "ViT"])
def test_a_student_is_distilled_and_exported(make, tmp_path, name, way):
    save_local_dir(tmp_path / "teacher", family(name))
    sections = dict(WAYS[way])
    if way == "importance":
        wide = {"width": 96, "layers": 2} if name == "PE-Core" else HALF["vision_cfg"]
        sections["student"] = {"model": {**HALF, "vision_cfg": wide}}
    config = make(teacher={"model": str(tmp_path / "teacher")}, **sections)
    distill(config, tmp_path / "run")
    events = read_events(tmp_path / "run" / "events.jsonl")
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    assert len(losses) == 12 and all(0 < loss < 100 for loss in losses)
    clip = load_clip(str(tmp_path / "run" / "student"))
    pairs = noise(32), [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    export_bundle(clip, tmp_path / "bundle", pairs=pairs, max_drop=100)
    edge = EdgeCLIP.load(tmp_path / "bundle", precision="fp32")
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenizer(pairs[1]), normalize=True).numpy()
    np.testing.assert_allclose(edge.encode_text(pairs[1]), expected, atol=1e-5)
