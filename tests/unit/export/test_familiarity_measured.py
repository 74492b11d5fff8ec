"""The manifest's familiarity: from training pictures, and true of those of the verification."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tinyclip_edge.api.training_pictures import training_pictures
from tinyclip_edge.runtime.familiarity import Familiarity
from tinyclip_export.bundle.familiarity import measure_familiarity
from tinyclip_export.settings import DEFAULT
from tinyclip_export.verification.embeddings import TimedEmbeddings

WIDTH = 8


class Encoder(torch.nn.Module):
    """A random projection of the mean colours of a picture's quarters."""

    def __init__(self):
        super().__init__()
        weights = np.random.default_rng(0).normal(size=(12, WIDTH))
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def encode_image(self, pixels, normalize):
        quarters = torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)
        return torch.nn.functional.normalize(quarters @ self.weights, dim=-1)


def preprocess(image):
    return torch.tensor(np.asarray(image), dtype=torch.float32).permute(2, 0, 1) / 127.5 - 1


def pictures(count, seed, low=150, high=255):
    random = np.random.default_rng(seed)
    tiles = random.integers(low, high, (count, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(tile).resize((16, 16), Image.Resampling.NEAREST) for tile in tiles]


def job(training, verified):
    clip = SimpleNamespace(model=Encoder(), preprocess=preprocess, embedding_dim=WIDTH)
    settings = replace(DEFAULT, training=training)
    return SimpleNamespace(
        clip=clip, settings=settings, pairs=(verified, [""] * len(verified)), precisions=("fp32",)
    )


def encoded(images):
    pixels = torch.stack([preprocess(image) for image in images])
    return Encoder().encode_image(pixels, True).numpy(), pixels.numpy()


def measured(training=200, verified=400):
    seen = pictures(verified, 2)
    features, _ = encoded(seen)
    request = job(lambda: pictures(training, 1), seen)
    return measure_familiarity(request, {"fp32": TimedEmbeddings(features, features)})


def test_one_picture_in_a_hundred_is_taken_for_another_kind():
    entry = json.loads(json.dumps(measured()))  # as a manifest stores it
    assert entry["pictures"] == {"training": 200, "verification": 400}
    manifest = SimpleNamespace(familiarity=entry, embedding_dim=WIDTH, name="toy")
    familiarity = Familiarity.of(manifest, "fp32")
    own = familiarity.knows(*encoded(pictures(400, 2)))
    assert own.count(False) <= 4  # 1 %
    unseen = familiarity.knows(*encoded(pictures(2000, 3)))
    assert unseen.count(False) <= 60
    strange = familiarity.knows(*encoded(pictures(200, 4, 0, 90)))
    assert strange.count(False) >= 190
    assert Familiarity.of(SimpleNamespace(familiarity={}), "fp32") is None


@pytest.mark.parametrize(("width", "directions"), [(8, 4), (256, 125), (512, 62)])
def test_half_the_directions_are_stored_within_32_kilobytes(monkeypatch, width, directions):
    """Of all of them, those that vary most hide the others: pictures of all kinds differ there."""
    monkeypatch.setattr(f"{__name__}.WIDTH", width)
    entry = measured(training=4 * width, verified=99)
    assert len(entry["embedding"]["scales"]) == directions


@pytest.mark.parametrize(("training", "verified"), [(200, 98), (31, 400)])
def test_too_few_pictures_give_nothing(training, verified):
    assert measured(training, verified) == {}


def test_without_training_pictures_nothing_is_measured():
    assert measure_familiarity(job(None, pictures(100, 2)), {}) == {}


RUN = """
teacher: {model: starter-teacher}
student: {model: starter-50}
data: {train: pairs.csv, val: val.csv}
optim: {steps: 1}
"""


def test_only_the_pairs_of_a_run_itself_stand_for_its_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("runs/mine")
    (run / "student").mkdir(parents=True)
    (run / "config.yaml").write_text(RUN, encoding="utf-8")
    assert training_pictures(str(run), "val.csv") is None  # nothing was trained
    (run / "events.jsonl").touch()
    for model in (run, run / "student"):
        assert training_pictures(str(model), "val.csv") is not None
        assert training_pictures(str(model), str(run / "config.yaml")) is not None
        assert training_pictures(str(model), "starter:val") is None
        assert training_pictures(str(model), "other.csv") is None
    assert training_pictures("ViT-B-32", "starter:val") is None
    assert training_pictures("starter-teacher", "starter:test_style") is not None
    assert training_pictures("starter-teacher", "val.csv") is None
    starter = RUN.replace("pairs.csv", "starter:train").replace("val.csv", "starter:val")
    (run / "config.yaml").write_text(starter, encoding="utf-8")
    assert training_pictures(str(run), "starter:test_concepts") is not None
    assert training_pictures(str(run), "val.csv") is None
    Path("pairs.csv").write_text("image,caption\na.png,a\nb.png,b\n", encoding="utf-8")
    for name in ("a", "b"):
        Image.new("RGB", (4, 4), "red" if name == "a" else "blue").save(f"{name}.png")
    (run / "config.yaml").write_text(RUN, encoding="utf-8")
    read = training_pictures(str(run), "val.csv")
    assert read is not None and len(read()) == 2
