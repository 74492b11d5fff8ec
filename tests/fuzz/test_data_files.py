"""Any bytes in checkpoints and in the configurations of models."""

from __future__ import annotations

import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mangling import few, junk, mangled_json, only_our_errors, quick
from safetensors.torch import save as to_safetensors

from tinyclip_edge.models import load_clip
from tinyclip_edge.models.checkpoint_file import read_checkpoint
from tinyclip_edge.models.convert import convert_checkpoint
from tinyclip_edge.models.hf_config import read_model_cfg, read_preprocess_cfg


def weights() -> dict[str, torch.Tensor]:
    return {"visual.proj": torch.eye(3), "logit_scale": torch.tensor(1.0)}


def saved(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": weights()}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@quick
@given(data=st.data())
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_checkpoints(tmp_path, form, data):
    valid = to_safetensors(weights()) if form == "safetensors" else saved(form == "legacy")
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    path.write_bytes(data.draw(junk(valid)))
    only_our_errors(lambda: read_checkpoint(path))
    only_our_errors(lambda: convert_checkpoint(str(path)))


@few
@given(data=st.data())
def test_open_clip_config(toy_teacher_folder, tmp_path, data):
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    for path in toy_teacher_folder.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    config = json.loads((toy_teacher_folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").unlink()
    (folder / "open_clip_config.json").write_bytes(data.draw(mangled_json(config)))
    only_our_errors(lambda: load_clip(str(folder)))


HUGGING_FACE = {
    "model_type": "clip",
    "projection_dim": 64,
    "logit_scale_init_value": 2.6592,
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "vocab_size": 600,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
        "layer_norm_eps": 1e-5,
    },
    "vision_config": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
}
PREPROCESSOR = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
}


@quick
@given(content=mangled_json(HUGGING_FACE))
def test_hugging_face_config(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    only_our_errors(lambda: read_model_cfg(path))


@quick
@given(content=mangled_json(PREPROCESSOR))
def test_hugging_face_preprocessor(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    only_our_errors(lambda: read_preprocess_cfg(tmp_path, 32))
