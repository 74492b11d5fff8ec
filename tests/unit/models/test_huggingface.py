"""Hugging Face CLIPModel folders: what is refused, by name, and what the hub gives."""

from __future__ import annotations

import json
import shutil
import warnings
from fnmatch import fnmatch

import huggingface_hub
import pytest
import safetensors.torch
import torch
from PIL import Image

from refused_model import refused
from tinyclip_edge.errors import ModelError, TinyClipWarning
from tinyclip_edge.models import load_clip, save_huggingface, weights_hash
from tinyclip_edge.models.assemble import assemble


@pytest.fixture(scope="session")
def saved(toy_teacher_folder, tmp_path_factory):
    """The toy teacher as transformers would lay it out, nothing of open_clip's. Do not write."""
    folder = tmp_path_factory.mktemp("hf") / "toy"
    save_huggingface(folder, load_clip(str(toy_teacher_folder)))
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(saved, tmp_path / "toy")


def edit(path, **changes):
    table = json.loads(path.read_text())
    for key, value in changes.items():
        *tables, last = key.split("__")
        inner = table
        for name in tables:
            inner = inner[name]
        inner[last] = value
    path.write_text(json.dumps(table))


def test_names_of_a_clip_model(saved):
    state = safetensors.torch.load_file(saved / "model.safetensors")
    # by hand: 16 tensors a layer, 7 + 3 layers; the vision tower has 7 more, the text tower 4
    assert len(state) == 16 * (4 + 3) + 7 + 4 + 2 + 1
    assert state["visual_projection.weight"].shape == (64, 128)
    assert state["text_projection.weight"].shape == (64, 128)
    assert state["vision_model.encoder.layers.3.self_attn.k_proj.bias"].shape == (128,)
    config = json.loads((saved / "config.json").read_text())
    assert config["architectures"] == ["CLIPModel"]
    assert config["vision_config"]["num_attention_heads"] == 2
    assert config["text_config"]["eos_token_id"] == config["text_config"]["vocab_size"] - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "blip"}, "describes a 'blip' model"),
        ({"text_config__hidden_act": "quick_gelu"}, "hidden_act must be gelu or quick_gelu in"),
        (
            {"text_config__hidden_act": "relu", "vision_config__hidden_act": "relu"},
            "in both towers: relu",
        ),
        ({"text_config__hidden_act": ["gelu"]}, "in both towers: ['gelu'], gelu"),
        ({"vision_config__num_channels": 1}, "num_channels is 1"),
        ({"vision_config__num_attention_heads": 3}, "hidden_size 128 does not split into 3 heads"),
        ({"vision_config__patch_size": "8"}, "patch_size is '8', not a positive number"),
        ({"text_config__layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"text_config__eos_token_id": None}, "eos_token_id is None"),
        ({"vision_config": [1]}, "vision_config is no table"),
        ({"text_config__num_hidden_layers": 4}, "missing (text_model.encoder.layers.3."),
        ({"text_config__num_hidden_layers": 2}, "unknown (text_model.encoder.layers.2."),
        ({"text_config__intermediate_size": 500}, "misshapen (transformer.resblocks.0.mlp.c_fc"),
    ],
)
def test_configs_that_do_not_fit(folder, changes, message):
    edit(folder / "config.json", **changes)
    refused(folder, str(folder), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"shortest_edge": 36}}, "resizes to 36 and crops to 32x32 pixels"),
        ({"crop_size": {"height": 24, "width": 24}}, "crops to 24x24 pixels; the model takes 32"),
        ({"do_normalize": False}, "do_normalize is off"),
        ({"size": {"shortest_edge": [32]}}, "resizes to [32] and crops to 32x32 pixels"),
        ({"rescale_factor": 1.0}, "rescale_factor must be 1/255"),
        ({"rescale_factor": "1/255"}, "rescale_factor must be 1/255"),
        ({"resample": 4}, "interpolation '4'"),
    ],
)
def test_preprocessing_that_open_clip_has_not(folder, changes, message):
    edit(folder / "preprocessor_config.json", **changes)
    refused(folder, "preprocessor_config.json", message)


def test_weights_that_do_not_fit(folder):
    path = folder / "model.safetensors"
    # Copies: the file, which safetensors maps into memory, is written anew.
    state = {key: tensor.clone() for key, tensor in safetensors.torch.load_file(path).items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(17)  # of older files: ignored
    safetensors.torch.save_file(state, path)
    load_clip(str(folder))
    key = "text_model.encoder.layers.0.self_attn.v_proj.weight"
    safetensors.torch.save_file({**state, key: torch.zeros(2, 128)}, path)
    refused(folder, "1 misshapen (text_model.encoder.layers.0.self_attn.q_proj.weight")
    scalars = {key.replace("v_proj", f"{part}_proj"): torch.zeros(()) for part in "qkv"}
    safetensors.torch.save_file({**state, **scalars}, path)
    refused(folder, "1 misshapen (text_model.encoder.layers.0.self_attn.q_proj.weight []")
    safetensors.torch.save_file({k: t for k, t in state.items() if k != key}, path)
    refused(folder, f"1 missing ({key})")
    safetensors.torch.save_file({**state, "logit_scale": torch.tensor(torch.nan)}, path)
    refused(folder, "NaN or infinite values: 1 tensors (logit_scale)")
    path.write_bytes(path.read_bytes()[:1000])
    refused(folder, "damaged or cut short")
    path.unlink()
    refused(folder, "has no weights: no model.safetensors or pytorch_model.bin")


def test_an_index_cannot_lead_out_of_its_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    for name in ("../model.safetensors", "/etc/passwd", 3, "", []):
        index.write_text(json.dumps({"weight_map": {"logit_scale": name}}))
        refused(folder, "no weight_map of files beside it")
    index.write_text(json.dumps({"weight_map": {"logit_scale": "model-2.safetensors"}}))
    refused(folder, "no weight file", "model-2.safetensors")


def test_without_a_preprocessor_file_it_is_openais(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(TinyClipWarning, match="CLIP's own mean, std") as warned:
        table = load_clip(str(folder)).config["preprocess_cfg"]
    assert len(warned) == 1
    assert table["mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert table["size"] == 32


# As CLIPProcessor of transformers 5 saves it, with another mean, std and filter than CLIP's.
PROCESSOR = {
    "image_processor": {
        "crop_size": {"height": 32, "width": 32},
        "data_format": "channels_first",
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.5, 0.25, 0.2],
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 32},
    },
    "processor_class": "CLIPProcessor",
}


@pytest.mark.filterwarnings("error")
def test_the_image_processor_inside_processor_config(folder):
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    clip = load_clip(str(folder))
    table = clip.config["preprocess_cfg"]
    assert table["mean"] == [0.1, 0.2, 0.3]
    assert table["std"] == [0.5, 0.25, 0.2]
    assert table["interpolation"] == "bilinear"
    # by hand: 0.2, 0.4 and 0.8 of full light, less the mean, over std
    pixels = clip.preprocess(Image.new("RGB", (48, 40), (51, 102, 204)))
    expected = torch.tensor([0.2, 0.8, 2.5])[:, None, None].expand(3, 32, 32)
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)
    # its transform is the bilinear one: a step between dark and light by hand
    step = Image.new("RGB", (64, 64))
    step.paste((255, 255, 255), (33, 0, 64, 64))
    row = clip.preprocess(step)[0, 0] * 0.5 + 0.1
    # a triangle of 4 source pixels: weights 1, 3, 3, 1 of 8; columns 31 to 34 make column 16
    assert row[15:18].mul(8).round().tolist() == [0, 4, 8]


def test_the_own_file_of_the_image_processor_goes_first(folder):
    own = load_clip(str(folder)).config["preprocess_cfg"]
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    assert load_clip(str(folder)).config["preprocess_cfg"] == own
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": [1]}))
    refused(folder, "processor_config.json", "image_processor is no table")


def test_the_hub_gives_processor_config(hub):
    folder, _ = hub
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    table = load_clip("hf-hub:someone/toy").config["preprocess_cfg"]
    assert table["mean"] == [0.1, 0.2, 0.3]


def test_a_config_may_leave_out_what_transformers_fills_in(folder):
    config = folder / "config.json"
    table = json.loads(config.read_text())
    for tower in ("text_config", "vision_config"):
        del table[tower]["layer_norm_eps"]
    # old files give one tower twice; this one wins
    table["vision_config_dict"], table["vision_config"] = table["vision_config"], {}
    config.write_text(json.dumps(table))
    assert load_clip(str(folder)).config["model_cfg"]["vision_cfg"]["width"] == 128


@pytest.fixture
def hub(monkeypatch, saved, tmp_path):
    """A hub whose repositories all hold the toy; what was asked for."""
    asked = []

    def download(repository, allow_patterns):
        asked.append(allow_patterns)
        target = tmp_path / "cache"
        target.mkdir(exist_ok=True)
        for path in hub_folder.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, target / path.name)
        return str(target)

    hub_folder = shutil.copytree(saved, tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return hub_folder, asked


@pytest.mark.parametrize("layout", ["safetensors", "bin", "shards"])
def test_hub_repository(hub, saved, layout):
    folder, asked = hub
    weights = folder / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    if layout != "safetensors":
        weights.unlink()
    if layout == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    if layout == "shards":
        names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        where = {key: names[i % 2] for i, key in enumerate(state)}
        for name in names:
            part = {key: t for key, t in state.items() if where[key] == name}
            safetensors.torch.save_file(part, folder / name)
        index = json.dumps({"metadata": {}, "weight_map": where})
        (folder / "model.safetensors.index.json").write_text(index)
    clip = load_clip("hf-hub:someone/toy")
    assert clip.name == "hf-hub:someone/toy"
    assert weights_hash(clip.model) == weights_hash(load_clip(str(saved)).model)
    assert not any(fnmatch("model.safetensors", pattern) for pattern in asked[0])
    assert len(asked) == (3 if layout == "bin" else 2)


def test_hub_repository_of_another_kind(hub):
    folder, asked = hub
    edit(folder / "config.json", model_type="blip")
    with pytest.raises(ModelError, match="a 'blip' model"):
        load_clip("hf-hub:someone/blip")
    assert len(asked) == 1
    (folder / "config.json").unlink()
    shutil.rmtree(folder.parent / "cache")
    with pytest.raises(ModelError, match=r"neither open_clip_config\.json nor config\.json"):
        load_clip("hf-hub:someone/nothing")


def clip_of(toy, tokenizer_file, **changes):
    config = json.loads(json.dumps(toy.config["model_cfg"]))
    for key, value in changes.items():
        table, _, name = key.rpartition("__")
        (config[table] if table else config)[name] = value
    return assemble(config, None, name="student", tokenizer_file=tokenizer_file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_cfg__layers": [1, 1, 1, 1], "vision_cfg__width": 64}, "is a ResNet"),
        ({"vision_cfg__pool_type": "avg"}, "vision_cfg.pool_type is 'avg'"),
        ({"vision_cfg__no_ln_pre": True}, "vision_cfg.no_ln_pre is True"),
        ({"vision_cfg__ls_init_value": 0.1}, "vision_cfg.ls_init_value is 0.1"),
        ({"text_cfg__pool_type": "last"}, "text_cfg.pool_type is 'last'"),
        ({"text_cfg__no_causal_mask": True}, "text_cfg.no_causal_mask is True"),
        ({"text_cfg__act_kwargs": {"approximate": "tanh"}}, "text_cfg.act_kwargs is"),
        ({"init_logit_bias": -10.0}, "init_logit_bias is -10.0"),
        ({"custom_text": True}, "not open_clip's own transformer"),
    ],
)
def test_students_that_have_no_such_form(
    toy_teacher, toy_tokenizer_file, tmp_path, changes, message
):
    clip = clip_of(toy_teacher, toy_tokenizer_file, **changes)
    with pytest.raises(ModelError, match="student has no Hugging Face CLIPModel form") as caught:
        save_huggingface(tmp_path / "out", clip)
    assert message in str(caught.value)
    assert "--format open_clip" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_settings_without_effect_on_features_are_no_hindrance(
    toy_teacher, toy_tokenizer_file, tmp_path
):
    clip = clip_of(
        toy_teacher, toy_tokenizer_file, vision_cfg__patch_dropout=0.5, vision_cfg__pool_type="tok",
        text_cfg__pool_type="argmax", init_logit_scale=3.0, nonscalar_logit_scale=True,
        vision_cfg__image_size=[32, 32],
    )  # fmt: skip
    save_huggingface(tmp_path / "out", clip)
    state = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert state["logit_scale"].shape == ()
    assert state["logit_scale"].item() == 3.0


def test_a_disk_that_refuses_leaves_nothing(toy_teacher, tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(28, "No space left on device")

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("stays")
    monkeypatch.setattr("tinyclip_edge.models.huggingface.write_json", refuse)
    with pytest.raises(ModelError, match=r"cannot write .*out: No space left on device"):
        save_huggingface(tmp_path / "out", toy_teacher)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_the_command_line_says_the_warning_in_one_line(folder, command_line, tmp_path):
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(TinyClipWarning) as warned:
        code, _, _ = command_line("convert", folder, "--out", tmp_path / "out")
    assert code == 0
    (one,) = warned
    line = warnings.formatwarning(one.message, one.category, one.filename, one.lineno)
    assert line.startswith(f"warning: {folder} has no preprocessor_config.json")
    assert line.count("\n") == 1
