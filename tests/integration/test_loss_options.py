"""Runs with a sigmoid, prefixes of embeddings and averaged weights, to the bundle."""

from __future__ import annotations

import json
import math

import numpy as np
import open_clip
import pytest
from PIL import Image
from safetensors.torch import load_file

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import ConfigError, ModelError
from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.models.clip import PREFIXES
from tinyclip_edge.train import distill
from toy_runs import KilledError, Watcher, events_of, kill, losses

pytestmark = pytest.mark.usefixtures("no_report", "towers_exported_once")
SIGMOID = {
    "affinity": {"kind": "sigmoid"},
    "sigmoid": 0.5,
    "teacher_logit_bias": -20.0,
    "student_logit_bias": "learned",
    "matryoshka": [16, 32],
}


def test_a_student_keeps_its_bias_and_its_prefixes(make, tmp_path):
    out = tmp_path / "run"
    distill(make(loss=SIGMOID, optim={"steps": 6}), out)
    steps = events_of(out, "step")
    assert steps[0]["student_bias"] == -20.0
    assert steps[-1]["student_bias"] != -20.0
    clip = load_clip(str(out))
    assert clip.logit_bias == pytest.approx(load_file(
        out / "student" / "open_clip_model.safetensors"
    )["logit_bias"].item())  # fmt: skip
    assert clip.prefixes == (16, 32)
    model, *_ = open_clip.create_model_and_transforms(f"local-dir:{out / 'student'}")
    assert model.logit_bias.item() == pytest.approx(clip.logit_bias)
    # Another student of it trains no prefix unless its own loss says so.
    again = make(teacher={"model": str(out / "student")}, optim={"steps": 1})
    distill(again, tmp_path / "again")
    assert load_clip(str(tmp_path / "again")).prefixes == ()


@pytest.mark.parametrize("lengths", ["16", [], [0], [64], [True], [1.5], list(range(1, 70))])
def test_prefixes_of_a_foreign_folder_are_checked(toy_teacher_folder, tmp_path, lengths):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in toy_teacher_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps({**config, PREFIXES: lengths}))
    with pytest.raises(ModelError, match=f"{PREFIXES} must list lengths from 1 to 63"):
        load_clip(str(folder))


def test_what_the_teacher_lacks_is_reported_before_the_first_step(make, tmp_path):
    with pytest.raises(ConfigError, match=r"teacher toy-teacher has none; set"):
        distill(make(loss={"affinity_kind": "sigmoid"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"loss\.matryoshka has 64"):
        distill(make(loss={"matryoshka": [64]}), tmp_path / "run")


@pytest.mark.slow
def test_manifest_and_card_list_the_prefixes(make, tmp_path):
    from tinyclip_export import export_bundle

    distill(make(loss=SIGMOID, optim={"steps": 2}), tmp_path / "run")
    clip = load_clip(str(tmp_path / "run"))
    bundle = tmp_path / "bundle"
    texts = ["a photo of the red dog", "a blue square", "the big circle", "a bicycle"]
    images = [toy_picture(number) for number in range(4)]
    export_bundle(clip, bundle, pairs=(images, texts), max_drop=100.0)
    edge = EdgeCLIP.load(bundle, precision="fp32")
    assert edge.manifest.matryoshka == {"dimensions": [16, 32]}
    assert edge.manifest.logit_bias == pytest.approx(clip.logit_bias)
    card = " ".join((bundle / "README.md").read_text().split())
    assert "first 16, 32 of 64 dimensions" in card
    index = edge.index(images).compressed(dimensions=16, int8=False)
    assert math.isclose(float((index.features[0] ** 2).sum()), 1.0, rel_tol=1e-5)


def toy_picture(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.mark.slow
def test_a_masked_run_averages_the_remaining_units_and_resumes_exactly(make, tmp_path):
    config = make(
        loss={**SIGMOID, "affinity": {"kind": "sigmoid", "weight": 100.0}},
        student={"keep": 0.5},
        inherit={"method": "masks"},
        masks={"lr": 0.4, "lambda_lr": 1.0, "warmup": 0.4, "prune": 18, "extra": 4},
        optim={"steps": 26, "lr": 5e-4, "warmup": 3, "ema": 0.7},
        run={"save_every": 5},
    )
    distill(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        distill(config, tmp_path / "cut", observer=Watcher(23, kill))
    distill(config, tmp_path / "cut", resume=True)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    one, other = (load_clip(str(tmp_path / name)) for name in ("whole", "cut"))
    assert weights_hash(one.model) == weights_hash(other.model)
    assert one.logit_bias not in (None, -20.0)
    assert one.prefixes == (16, 32)
