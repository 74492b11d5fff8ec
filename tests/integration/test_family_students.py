"""Students of today's families from start to bundle: masks, inheritance, int8, all verified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from families import ENCODERS, EVERY, family, representatives
from masked_clip import random_masks
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.inheritance.tower_kind import SHARED, split_key
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_edge.train import distill, read_events
from tinyclip_export import export_bundle
from tinyclip_export.bundle.trim_vocab import trim_vocabulary

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("no_report", "quick_exports"),
]

COLOURS = ("red", "blue", "green", "black")
SHAPES = ("square", "circle", "cat", "dog", "star", "house", "tree", "fish")
TEXTS = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
HALF = {"vision_cfg": {"width": 32, "layers": 2}, "text_cfg": {"width": 32, "layers": 2}}
WAYS = {
    "masks": {
        "student": {"keep": 0.5},
        "inherit": {"method": "masks"},
        "masks": {"lr": 0.9, "lambda_lr": 1.0, "warmup": 0.4, "prune": 6, "extra": 2},
    },
    "importance": {"inherit": {"plan": "importance", "calibration": 16}},
}

WIDTHS = {
    "PE-Core": {"width": 96, "layers": 2},
    "MobileCLIP 2": {"width": 8, "layers": [1, 1, 2, 1]},
    "MobileCLIP 2, five stages": {"width": 4, "layers": [1, 1, 2, 1, 1]},
    "MobileCLIP-B": {"layers": 2},
    "ResNet": {"width": 16, "layers": [1, 1, 1, 1]},
}
NAMES = [*(name for name in EVERY if name != "ViT"), "ResNet"]
# Shares that are above that of what masks leave in these siblings.
KEEP = {"ViTamin": 0.8, "ResNet": 0.7}
RUNS = [("CoCa", "masks"), *((name, way) for way in WAYS for name in NAMES)]


def noise(count):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(count)]


@pytest.mark.parametrize(("name", "way"), representatives(RUNS))
def test_a_student_is_distilled_and_exported(make, tmp_path, name, way):
    save_local_dir(tmp_path / "teacher", family(name))
    sections = dict(WAYS[way])
    if name in KEEP and way == "masks":
        sections["student"] = {"keep": KEEP[name]}
    if way == "importance":
        vision = WIDTHS.get(name, HALF["vision_cfg"])
        sections["student"] = {"model": {**HALF, "vision_cfg": vision}}
    config = make(teacher={"model": str(tmp_path / "teacher")}, **sections)
    clip = distilled(config, tmp_path / "run")
    check_bundle(clip, TEXTS, tmp_path / "bundle")


def distilled(config, folder):
    distill(config, folder)
    events = read_events(folder / "events.jsonl")
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    assert len(losses) == 12 and all(0 < loss < 100 for loss in losses)
    return load_clip(str(folder / "student"))


def check_bundle(clip, texts, folder):
    """Export fp32 and int8, and compare the texts of the bundle with PyTorch."""
    export_bundle(clip, folder, pairs=(noise(len(texts)), texts), max_drop=100)
    edge = EdgeCLIP.load(folder, precision="fp32")
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenizer(texts), normalize=True).numpy()
    np.testing.assert_allclose(edge.encode_text(texts), expected, atol=1e-5)
    assert EdgeCLIP.load(folder).encode_text(texts).shape == expected.shape


@pytest.mark.parametrize("name", representatives(ENCODERS))
def test_a_pruned_encoder_with_fewer_tokens_is_exported(name, tmp_path):
    """The vocabulary is cut after masks; texts that it covers keep their embeddings."""
    clip = family(name)
    pruned = prune_clip(clip, random_masks(clip_units(clip), 1, off=0.4)).clip
    save_local_dir(tmp_path / "pruned", pruned)
    loaded = load_clip(str(tmp_path / "pruned"))
    small = trim_vocabulary(loaded, TEXTS).clip
    assert small.vocabulary < loaded.vocabulary
    with torch.no_grad():
        before = loaded.model.encode_text(loaded.tokenizer(TEXTS), normalize=True)
        after = small.model.encode_text(small.tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    check_bundle(small, TEXTS, tmp_path / "bundle")
    save_local_dir(tmp_path / "small", small)
    with torch.no_grad():
        reloaded = load_clip(str(tmp_path / "small"))
        again = reloaded.model.encode_text(reloaded.tokenizer(TEXTS), normalize=True)
    assert torch.equal(again, after)


@pytest.mark.parametrize("name", ["ViT", "mT5"])
def test_masks_of_one_tower_beside_a_frozen_one(make, tmp_path, name):
    teacher = family(name)
    save_local_dir(tmp_path / "teacher", teacher)
    units = clip_units(teacher)
    sections = {
        **WAYS["masks"],
        "student": {"keep": (units.text.prunable + units.image.prunable / 2) / units.prunable},
        "inherit": {"method": "masks", "text": "frozen"},
    }
    clip = distilled(
        make(teacher={"model": str(tmp_path / "teacher")}, **sections), tmp_path / "run"
    )
    after = clip_units(clip)
    assert after.text == units.text
    assert after.image.prunable / units.image.prunable == pytest.approx(0.5, abs=0.1)
    before = load_clip(str(tmp_path / "teacher"))
    with torch.no_grad():
        ours = clip.model.encode_text(clip.tokenizer(TEXTS))
        theirs = before.model.encode_text(before.tokenizer(TEXTS))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("whole", ["image", "text"])
@pytest.mark.parametrize("name", ["ViT", "SigLIP 2", "XLM-R", "NLLB"])
def test_one_tower_is_trained_beside_a_frozen_one(make, tmp_path, name, whole):
    teacher = family(name)
    save_local_dir(tmp_path / "teacher", teacher)
    shrunk = "text_cfg" if whole == "image" else "vision_cfg"
    narrow = {"layers": 2} if name == "SigLIP 2" else HALF[shrunk]
    config = make(
        teacher={"model": str(tmp_path / "teacher")},
        student={"model": {shrunk: narrow}},
        inherit={"plan": "evenly", whole: "frozen"},
        run={"micro_batch": 8},
        optim={"ema": 0.9},
    )
    clip = distilled(config, tmp_path / "run")
    trained = {"image": False, "text": False}
    before = load_clip(str(tmp_path / "teacher")).model.state_dict()
    for key, tensor in clip.model.state_dict().items():
        if key not in SHARED:
            tower = split_key(key)[0]
            same = key in before and torch.equal(tensor, before[key])
            trained[tower] |= not same
    assert trained == {"image": whole == "text", "text": whole == "image"}
    check_bundle(clip, TEXTS, tmp_path / "bundle")
