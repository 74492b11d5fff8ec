"""CoCa and texts of 248 tokens as teachers: distilled, exported as fp32 and int8, verified."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from coca import save_coca
from families import family
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.train import distill, read_events
from tinyclip_export import export_bundle
from tinyclip_export.settings import ExportSettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_exports")]

HALF = {"vision_cfg": {"layers": 2}, "text_cfg": {"layers": 2}}
STUDENTS = {
    "CoCa": HALF,
    "Long-CLIP": {**HALF, "text_cfg": {"layers": 2, "context_length": 77}},
}
LONG = "a red cat and a small dog in a house at night in the rain " * 12


def pairs():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(32)]
    colours, shapes = ("red", "blue", "green", "black"), "square circle cat dog star tree bird rain"
    return images, [f"a {colour} {shape}" for colour in colours for shape in shapes.split()]


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_distilled_and_exported(make, tmp_path, name):
    if name == "CoCa":
        save_coca(tmp_path / "teacher")
    else:
        save_local_dir(tmp_path / "teacher", family(name))
    config = make(teacher={"model": str(tmp_path / "teacher")}, student={"model": STUDENTS[name]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distill(config, tmp_path / "run")
    events = read_events(tmp_path / "run" / "events.jsonl")
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    assert len(losses) == 12 and all(0 < loss < 100 for loss in losses)
    assert not [event for event in events if event["kind"] == "probe" and event.get("blind")]
    clip = load_clip(str(tmp_path / "run" / "student"))
    assert clip.context_length == (8 if name == "CoCa" else 77)
    settings = ExportSettings(search=False)
    export_bundle(clip, tmp_path / "bundle", pairs=pairs(), max_drop=100, settings=settings)
    texts = [*pairs()[1], LONG, ""]
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenizer(texts), normalize=True).numpy()
    exact = EdgeCLIP.load(tmp_path / "bundle", precision="fp32").encode_text(texts)
    np.testing.assert_allclose(exact, expected, atol=1e-5)
    quantized = EdgeCLIP.load(tmp_path / "bundle", precision="int8").encode_text(texts)
    assert (quantized * expected).sum(axis=1).min() > 0.99
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["context_length"] == clip.context_length


def test_a_teacher_of_248_tokens_is_exported_whole(tmp_path):
    clip = family("Long-CLIP")
    settings = ExportSettings(search=False)
    export_bundle(clip, tmp_path / "bundle", pairs=pairs(), max_drop=100, settings=settings)
    edge = EdgeCLIP.load(tmp_path / "bundle", precision="fp32")
    assert len(edge.token_ids(LONG)) > 77
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenizer([LONG]), normalize=True).numpy()
    np.testing.assert_allclose(edge.encode_text([LONG]), expected, atol=1e-5)
