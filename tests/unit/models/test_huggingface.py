"""Hugging Face CLIPModel folders: configurations and weights that do not fit are refused."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hf_folders import edit

from refused_model import refused
from tinyclip_edge.models import load_clip


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
        ({"vision_config": [1]}, "vision_config must be a table"),
        ({"text_config__num_hidden_layers": 4}, "missing (text_model.encoder.layers.3."),
        ({"text_config__num_hidden_layers": 2}, "unknown (text_model.encoder.layers.2."),
        ({"text_config__intermediate_size": 500}, "misshapen (transformer.resblocks.0.mlp.c_fc"),
    ],
)
def test_configs_that_do_not_fit(hf_folder, changes, message):
    edit(hf_folder / "config.json", **changes)
    refused(hf_folder, str(hf_folder), message)


def test_weights_that_do_not_fit(hf_folder):
    path = hf_folder / "model.safetensors"
    # Copies: the file, which safetensors maps into memory, is written anew.
    state = {key: tensor.clone() for key, tensor in safetensors.torch.load_file(path).items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(17)  # of older files: ignored
    safetensors.torch.save_file(state, path)
    load_clip(str(hf_folder))
    key = "text_model.encoder.layers.0.self_attn.v_proj.weight"
    safetensors.torch.save_file({**state, key: torch.zeros(2, 128)}, path)
    refused(hf_folder, "1 misshapen (text_model.encoder.layers.0.self_attn.q_proj.weight")
    scalars = {key.replace("v_proj", f"{part}_proj"): torch.zeros(()) for part in "qkv"}
    safetensors.torch.save_file({**state, **scalars}, path)
    refused(hf_folder, "1 misshapen (text_model.encoder.layers.0.self_attn.q_proj.weight []")
    safetensors.torch.save_file({k: t for k, t in state.items() if k != key}, path)
    refused(hf_folder, f"1 missing ({key})")
    safetensors.torch.save_file({**state, "logit_scale": torch.tensor(torch.nan)}, path)
    refused(hf_folder, "NaN or infinite values: 1 tensors (logit_scale)")
    path.write_bytes(path.read_bytes()[:1000])
    refused(hf_folder, "damaged or cut short")
    path.unlink()
    refused(hf_folder, "has no weights: no model.safetensors or pytorch_model.bin")


def test_an_index_cannot_lead_out_of_its_folder(hf_folder):
    (hf_folder / "model.safetensors").rename(hf_folder.parent / "model.safetensors")
    index = hf_folder / "model.safetensors.index.json"
    for name in ("../model.safetensors", "/etc/passwd", 3, "", []):
        index.write_text(json.dumps({"weight_map": {"logit_scale": name}}))
        refused(hf_folder, "no weight_map of files in its folder")
    index.write_text(json.dumps({"weight_map": {"logit_scale": "model-2.safetensors"}}))
    refused(hf_folder, "no weight file", "model-2.safetensors")


def test_a_config_may_leave_out_what_transformers_fills_in(hf_folder):
    config = hf_folder / "config.json"
    table = json.loads(config.read_text())
    for tower in ("text_config", "vision_config"):
        del table[tower]["layer_norm_eps"]
    # old files give one tower twice; this one wins
    table["vision_config_dict"], table["vision_config"] = table["vision_config"], {}
    config.write_text(json.dumps(table))
    assert load_clip(str(hf_folder)).config["model_cfg"]["vision_cfg"]["width"] == 128
