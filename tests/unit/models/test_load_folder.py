from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch
import torch

from refused_model import refused
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture
def folder(toy_teacher_folder, tmp_path):
    """A copy of the toy teacher that a test may break."""
    return shutil.copytree(toy_teacher_folder, tmp_path / "toy")


def edit_config(folder, change):
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def edit_weights(folder, change):
    state = safetensors.torch.load_file(folder / WEIGHTS)
    change(state)
    safetensors.torch.save_file(state, folder / WEIGHTS)


def test_folder_and_local_dir_give_the_same_model(toy_teacher_folder, toy_teacher):
    for model in (str(toy_teacher_folder), f"local-dir:{toy_teacher_folder}"):
        clip = load_clip(model)
        assert clip.name == "toy-teacher"
        assert not clip.model.training
        assert clip.weights_file == toy_teacher_folder / WEIGHTS
        assert clip.tokenizer_file == toy_teacher_folder / "tokenizer.json"
        state = toy_teacher.model.state_dict()
        assert all(torch.equal(t, state[k]) for k, t in clip.model.state_dict().items())


@pytest.mark.parametrize("place", ["~", "$MODELS", "local-dir:~"])
def test_home_and_variables_are_filled_in(folder, monkeypatch, place):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("MODELS", str(folder.parent))
    assert load_clip(f"{place}/toy").weights_file == folder / WEIGHTS


def test_loading_leaves_the_random_state_alone(toy_teacher_folder):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_clip(str(toy_teacher_folder))
    assert torch.equal(torch.rand(1), expected)


def test_loading_is_silent(toy_teacher_folder, capfd, recwarn):
    import logging

    handlers = list(logging.getLogger().handlers)
    load_clip(str(toy_teacher_folder))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not recwarn.list
    assert logging.getLogger().handlers == handlers
    assert logging.root.manager.disable == logging.NOTSET


def test_run_folder_opens_its_student(folder, tmp_path):
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    folder.rename(run / "student")
    assert load_clip(str(run)).name == "first"
    assert load_clip(str(run / "student")).name == "first"


def test_missing_folders(tmp_path, folder):
    refused(tmp_path / "nowhere", "nowhere")
    with pytest.raises(ModelError, match="no model folder"):
        load_clip(f"local-dir:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty", "open_clip_config.json")
    (folder / WEIGHTS).unlink()
    refused(folder, "has no weights")


def test_bundle_is_distinguished(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    refused(tmp_path, "bundle")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"x"', ""])
def test_broken_config(folder, text):
    (folder / CONFIG).write_text(text)
    refused(folder, CONFIG)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda m: m.pop("text_cfg"), ["has no 'text_cfg'"]),
        (lambda m: m.update(vision_cfg=3), ["vision_cfg", "table"]),
        (lambda m: m["vision_cfg"].update(widht=3), ["'widht'", "did you mean 'width'"]),
        (lambda m: m["text_cfg"].update(layer=3), ["'layer'", "did you mean 'layers'"]),
        (lambda m: m.update(quick_gellu=True), ["'quick_gellu'", "did you mean 'quick_gelu'"]),
        (lambda m: m["vision_cfg"].update(width=100), ["100", "head_width 64"]),
        (lambda m: m["text_cfg"].update(heads=3), ["128", "3 heads"]),
        (lambda m: m["vision_cfg"].update(width="big"), ["open_clip cannot build"]),
        (lambda m: m.update(multimodal_cfg=3), ["multimodal_cfg", "table"]),
    ],
)
def test_broken_model_cfg(folder, change, parts):
    edit_config(folder, lambda config: change(config["model_cfg"]))
    refused(folder, CONFIG, *parts)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"maen": [0, 0, 0]}, ["'maen'", "did you mean 'mean'"]),
        ({"interpolation": "nearest"}, ["nearest"]),
        ({"resize_mode": "stretch"}, ["stretch"]),
    ],
)
def test_broken_preprocess_cfg(folder, change, parts):
    edit_config(folder, lambda config: config["preprocess_cfg"].update(change))
    refused(folder, *parts)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(folder, keep):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:keep])
    refused(folder, WEIGHTS, "damaged or cut short")


def test_garbage_weights(folder):
    (folder / WEIGHTS).write_bytes(b"\xff" * 4096)
    refused(folder, WEIGHTS, "damaged")


def test_missing_extra_and_misshapen_tensors_are_listed(folder):
    def change(state):
        del state["visual.proj"]
        state["visual.extra"] = torch.zeros(1)
        state["ln_final.bias"] = torch.zeros(3)

    edit_weights(folder, change)
    refused(
        folder,
        "1 missing (visual.proj)",
        "1 unknown (visual.extra)",
        "1 misshapen (ln_final.bias [3] for [128])",
    )


def test_other_architecture_is_refused(folder):
    edit_config(folder, lambda config: config["model_cfg"]["vision_cfg"].update(layers=5))
    refused(folder, "12 missing (visual.transformer.resblocks.4.")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(folder, value):
    edit_weights(folder, lambda state: state["visual.proj"].__setitem__((3, 5), value))
    refused(folder, "NaN or infinite", "visual.proj")


def test_fp16_files_are_read_as_float32(folder, toy_teacher):
    def change(state):
        state.update({key: value.half() for key, value in state.items()})

    edit_weights(folder, change)
    state = load_clip(str(folder)).model.state_dict()
    for key, value in toy_teacher.model.state_dict().items():
        assert state[key].dtype == torch.float32
        assert torch.equal(state[key], value.half().float())


def test_logit_scale_may_be_a_vector(folder, toy_teacher):
    edit_weights(folder, lambda state: state.update(logit_scale=state["logit_scale"].reshape(1)))
    assert load_clip(str(folder)).logit_scale == pytest.approx(1 / 0.07, rel=1e-6)


def test_torch_file_is_read_without_unpickling(folder):
    state = safetensors.torch.load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save({"state_dict": state}, folder / "open_clip_pytorch_model.bin")
    assert load_clip(str(folder)).image_size == 32

    class Evil:
        def __reduce__(self):
            return print, ("unpickled",)

    torch.save({"state_dict": state, "x": Evil()}, folder / "open_clip_pytorch_model.bin")
    refused(folder, "cannot be read as plain weights")


def test_tokenizer_must_fit_the_model(folder):
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer.json")
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer.json", "49408")


def test_tokenizer_with_more_tokens_than_the_model(folder):
    vocabulary = json.loads((folder / CONFIG).read_text())["model_cfg"]["text_cfg"]["vocab_size"]
    edit_config(folder, lambda c: c["model_cfg"]["text_cfg"].update(vocab_size=vocabulary - 1))
    edit_weights(
        folder,
        lambda s: s.update({"token_embedding.weight": s["token_embedding.weight"][:-1].clone()}),
    )
    refused(folder, f"{vocabulary} tokens", f"{vocabulary - 1}")
