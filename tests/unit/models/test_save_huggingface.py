"""Writing a Hugging Face CLIPModel folder, and students that have no such form."""

from __future__ import annotations

import json

import pytest
import safetensors.torch

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import save_huggingface
from tinyclip_edge.models.assemble import assemble


def test_names_of_a_clip_model(hf_toy):
    state = safetensors.torch.load_file(hf_toy / "model.safetensors")
    # by hand: 16 tensors a layer, 7 + 3 layers; the vision tower has 7 more, the text tower 4
    assert len(state) == 16 * (4 + 3) + 7 + 4 + 2 + 1
    assert state["visual_projection.weight"].shape == (64, 128)
    assert state["text_projection.weight"].shape == (64, 128)
    assert state["vision_model.encoder.layers.3.self_attn.k_proj.bias"].shape == (128,)
    config = json.loads((hf_toy / "config.json").read_text())
    assert config["architectures"] == ["CLIPModel"]
    assert config["vision_config"]["num_attention_heads"] == 2
    assert config["text_config"]["eos_token_id"] == config["text_config"]["vocab_size"] - 1


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
