"""A teacher of some 600 tokens and a student of CLIP's 49,408, from the first step to a bundle."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch

from pair_shards import COLOURS, draw
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.models import TorchEmbedder, load_clip
from tinyclip_edge.train import distill
from tinyclip_export import export_bundle
from toy_runs import Watcher, losses

pytestmark = pytest.mark.usefixtures("no_report", "towers_exported_once")

STUDENT = {
    "vision_cfg": {"width": 64, "layers": 2},
    "text_cfg": {"vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
TEXTS = ["a photo of a cat", "zebra crossing", "Żółć"]


@pytest.fixture
def run(make, tmp_path):
    def distil(name, **sections):
        config = make(student={"model": STUDENT}, optim={"steps": 3}, **sections)
        watcher = Watcher()
        distill(config, tmp_path / name, observer=watcher)
        return tmp_path / name, watcher.messages

    return distil


def ids(texts):
    return open_clip.SimpleTokenizer(context_length=16)(texts)


def test_each_has_its_own_ids_with_and_without_a_feature_cache(run, tmp_path):
    live, messages = run("live")
    cached, _ = run("cached", data={"feature_cache": str(tmp_path / "cache")})
    assert any("token embedding not inherited" in line for line in messages)
    assert losses(cached) == pytest.approx(losses(live), rel=1e-5)
    student = load_clip(str(live))
    assert torch.equal(student.tokenizer(TEXTS), ids(TEXTS))
    assert student.model.token_embedding.weight.shape == (49408, 64)


@pytest.mark.slow
def test_the_bundle_carries_the_students_tokenizer(run, tmp_path):
    folder, _ = run("live", inherit={"method": "none"})
    texts = [f"a photo of the {colour} square" for colour in COLOURS]
    images = [draw(colour, "square", "big") for colour in COLOURS]
    clip = load_clip(str(folder))
    export_bundle(clip, tmp_path / "bundle", precisions=("fp32",), pairs=(images, texts))
    vocabulary = json.loads((tmp_path / "bundle" / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == 49408
    edge = EdgeCLIP.load(tmp_path / "bundle", precision="fp32")
    ours = TorchEmbedder(clip).encode_text(TEXTS)
    assert np.abs(edge.encode_text(TEXTS) - ours).max() < 1e-4
