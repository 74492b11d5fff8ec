from __future__ import annotations

import json
import os
import shutil

import huggingface_hub
import pytest
import safetensors.torch
import torch

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip, newest_models, newest_run, save_local_dir
from tinyclip_edge.models.library import open_clip


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("", None, "empty"),
        ("ViT-B-23", None, "did you mean 'ViT-B-32'"),
        ("TinyCLIP-ViT-39M-16-Text-91M", None, "did you mean 'TinyCLIP-ViT-39M-16-Text-19M'"),
        ("ViT-B-32", None, "needs a pretrained tag.*laion2b_s34b_b79k"),
        ("ViT-B-32/laion2b_s34b_b97k", None, "did you mean 'laion2b_s34b_b79k'"),
        ("ViT-B-32", "nothing-like-it", "no pretrained tag or file.*openai"),
        ("ViT-B-32/openai", "laion2b_e16", "two pretrained tags"),
        (
            "starter-50",
            "openai",
            "pretrained 'openai' selects weights of an open_clip name, which starter-50",
        ),
        ("hf-hub:a/b", "openai", "which hf-hub:a/b is not"),
        ("starter-50", None, "shape without weights"),
        ("TinyCLIP-ViT-8M-16-Text-3M", None, "shape without weights"),
        ("./no/such/folder", None, "no model folder ./no/such/folder"),
        ("runs/unknown-run", None, "runs/unknown-run"),
    ],
)
def test_unknown_names(model, pretrained, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_clip(model, pretrained)
    assert "\n" not in str(caught.value)


@pytest.fixture
def repository(monkeypatch, tmp_path, toy_teacher):
    """The folder that stands for any hub repository; it is laid out for open_clip."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(toy_teacher.config))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(folder))
    return folder


@pytest.mark.parametrize("model", ["ViT-B-32/laion2b_s34b_b79k", "hf-hub:someone/something"])
@pytest.mark.parametrize(
    "call", [(open_clip, "create_model"), (huggingface_hub, "snapshot_download")]
)
def test_no_network_is_one_line(monkeypatch, repository, model, call):
    def offline(*args, **kwargs):
        raise RuntimeError("Failed to download weights: name resolution\nTraceback …")

    monkeypatch.setattr(open_clip, "create_model", offline)
    monkeypatch.setattr(*call, offline)
    with pytest.raises(
        ModelError, match=r"cannot fetch .*name resolution.*without network"
    ) as caught:
        load_clip(model)
    assert "\n" not in str(caught.value)


def test_a_long_cause_ends_at_a_word(monkeypatch):
    def offline(*args, **kwargs):
        raise RuntimeError("connection " * 40)

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(ModelError, match=r"b79k: (connection )+… \(without network") as caught:
        load_clip("ViT-B-32/laion2b_s34b_b79k")
    assert len(str(caught.value)) < 300


@pytest.fixture
def arguments(monkeypatch):
    """What open_clip is called with; it builds nothing."""
    options = {}

    def spy(name, **keywords):
        options.update(keywords)
        raise RuntimeError("stop here")

    monkeypatch.setattr(open_clip, "create_model", spy)
    return options


def test_hub_without_weights_is_not_random(arguments, repository):
    with pytest.raises(ModelError):
        load_clip("hf-hub:someone/something")
    assert arguments["require_pretrained"] is True
    assert arguments["weights_only"] is True


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_repository_with_its_own_vocabulary(repository, toy_teacher, toy_tokenizer_file, name):
    state = toy_teacher.model.state_dict()
    if name.endswith(".bin"):
        torch.save(state, repository / name)
    else:
        safetensors.torch.save_file(state, repository / name)
    with pytest.raises(ModelError, match=r"hf-hub:someone/toy: .*put the model's tokenizer\.json"):
        load_clip("hf-hub:someone/toy")
    shutil.copyfile(toy_tokenizer_file, repository / "tokenizer.json")
    clip = load_clip("hf-hub:someone/toy")
    assert clip.tokenizer_file == repository / "tokenizer.json"
    assert clip.config["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]
    assert all(torch.equal(value, state[key]) for key, value in clip.model.state_dict().items())


def test_a_repository_of_ours_has_the_tokenizer_that_lies_in_it(repository, toy_teacher):
    """As a saved student names it, so that open_clip reads a local folder's own file."""
    toy_teacher.config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "tokenizer.json"
    save_local_dir(repository, toy_teacher)
    assert load_clip("hf-hub:someone/toy").tokenizer_file == repository / "tokenizer.json"


def test_a_repositorys_config_is_checked_before_anything_is_built(monkeypatch, repository):
    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: pytest.fail("it was built"))
    path = repository / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "someone/code"
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"hf_model_name 'someone/code' is not a text tower"):
        load_clip("hf-hub:someone/something")


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_activation_follows_the_weights(arguments, tag, quick):
    with pytest.raises(ModelError):
        load_clip("ViT-B-16", tag)
    assert arguments["force_quick_gelu"] is quick


def test_name_with_weight_file(tmp_path, monkeypatch, toy_teacher):
    small = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
        "text_cfg": {"width": 64, "heads": 1, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Toy-CLIP", small)
    random = load_clip("Toy-CLIP", allow_random=True)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(random.model.state_dict(), path)
    clip = load_clip("Toy-CLIP", str(path))
    assert (clip.name, clip.weights_file) == ("Toy-CLIP/weights.safetensors", path)
    # open_clip's own tokenizer: start, "a</w>", end (openai/CLIP's vocabulary), zeros.
    assert clip.tokenizer(["a"])[0, :4].tolist() == [49406, 320, 49407, 0]
    safetensors.torch.save_file(toy_teacher.model.state_dict(), path)
    with pytest.raises(ModelError, match="misshapen"):
        load_clip("Toy-CLIP", str(path))


def test_newest_run(tmp_path):
    runs, bundles = tmp_path / "runs", tmp_path / "bundles"
    assert newest_models(runs, bundles) == []
    with pytest.raises(ModelError, match="run `tinyclip-edge distill` first"):
        newest_run(tmp_path / "runs")
    for age, name in ((30, "b"), (10, "a"), (20, "c")):
        config = tmp_path / "runs" / name / "student" / "open_clip_config.json"
        config.parent.mkdir(parents=True)
        config.write_text("{}")
        os.utime(config, (1_000_000 - age, 1_000_000 - age))
        (runs / name / "events.jsonl").touch()
    (runs / "unfinished").mkdir()
    (runs / "unfinished" / "events.jsonl").touch()
    untrained = runs / "a-step0" / "student"
    untrained.mkdir(parents=True)
    (untrained / "open_clip_config.json").write_text("{}")
    assert newest_run(runs) == runs / "a"
    assert newest_models(runs, bundles) == [str(runs / "a")]
    for name in ("x", ".x.partial"):
        (bundles / name).mkdir(parents=True)
        (bundles / name / "manifest.json").write_text("{}")
    assert newest_models(runs, bundles) == [str(runs / "a"), str(bundles / "x")]
