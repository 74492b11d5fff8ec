"""A name with a weight file has the preprocessing that is published for the name."""

from __future__ import annotations

import pytest
import torch

from tinyclip_edge.errors import TinyClipWarning
from tinyclip_edge.models import convert_checkpoint, load_clip
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.published_preprocessing import published_preprocessing

NAME = "toy-mobile"
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
    "text_cfg": {"context_length": 8, "width": 16, "heads": 1, "layers": 1},
}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear",
         "resize_mode": "shortest"}  # fmt: skip
SQUASH = {**PLAIN, "mean": (0.5, 0.5, 0.5), "resize_mode": "squash"}
OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073]


@pytest.fixture
def publish(monkeypatch):
    """Add the name with the given tags to open_clip's lists."""

    def add(**tags):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, CONFIG)
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, tags)

    return add


@pytest.fixture
def weights(tmp_path):
    torch.save(assemble(CONFIG, None, name="toy").model.state_dict(), tmp_path / "toy.pt")
    return str(tmp_path / "toy.pt")


def steps(clip):
    table = clip.config["preprocess_cfg"]
    return {key: table[key] for key in PLAIN}


def expected(table):
    return {**table, "mean": list(table["mean"]), "std": list(table["std"])}


def test_load_and_convert_take_that_of_the_only_one(publish, weights):
    publish(first=PLAIN, second=PLAIN)
    assert steps(load_clip(NAME, weights)) == expected(PLAIN)
    assert steps(load_clip(NAME, allow_random=True)) == expected(PLAIN)
    conversion = convert_checkpoint(weights, config=NAME)
    assert steps(conversion.clip) == expected(PLAIN)
    assert conversion.notes == (
        "preprocessing of toy-mobile's published weights: "
        "mean 0 0 0, std 1 1 1, bilinear, shortest",
    )


def test_where_tags_differ_the_tag_decides_else_most_of_them_and_a_line_says_so(publish, weights):
    publish(first=SQUASH, second=PLAIN, third=PLAIN)
    assert steps(convert_checkpoint(weights, config=f"{NAME}/first").clip) == expected(SQUASH)
    conversion = convert_checkpoint(weights, config=NAME)
    assert steps(conversion.clip) == expected(PLAIN)
    (note,) = conversion.notes
    assert note.startswith("preprocessing of toy-mobile/second: mean 0 0 0")
    assert "differ (first: mean 0.5 0.5 0.5, std 1 1 1, bilinear, squash)" in note
    assert "--config toy-mobile/TAG" in note
    with pytest.warns(TinyClipWarning, match=r"toy\.pt: preprocessing of toy-mobile/second"):
        assert steps(load_clip(NAME, weights)) == expected(PLAIN)


def test_a_name_without_published_weights_has_clips_own(publish, weights):
    publish()
    assert steps(load_clip(NAME, weights))["mean"] == OPENAI_MEAN
    conversion = convert_checkpoint(weights, config=NAME)
    assert (steps(conversion.clip)["mean"], conversion.notes) == (OPENAI_MEAN, ())


def test_the_name_in_a_files_training_arguments_counts_too(publish, tmp_path):
    publish(only=PLAIN)
    state = assemble(
        {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "width": 64}}, None, name="toy"
    ).model.state_dict()
    file = tmp_path / "trained.pt"
    torch.save({"state_dict": state, "args": {"model": NAME, "force_quick_gelu": False}}, file)
    conversion = convert_checkpoint(str(file))
    assert steps(conversion.clip) == expected(PLAIN)
    assert "preprocessing of toy-mobile's published weights" in conversion.notes[-1]


def test_open_clips_own_list(publish):
    """MobileCLIP and SigLIP are published with these; ViT-L-14 with two."""
    assert published_preprocessing("MobileCLIP-S1").preprocess_cfg == PLAIN
    siglip = published_preprocessing("ViT-B-16-SigLIP2")
    assert (siglip.preprocess_cfg["mean"], siglip.is_unique) == ((0.5, 0.5, 0.5), True)
    large = published_preprocessing("ViT-L-14")
    assert (list(large.preprocess_cfg["mean"]), large.is_unique) == (OPENAI_MEAN, False)
