"""Repositories of CLIPModels on the hub: what is downloaded, and what is refused."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch

import pytest
import safetensors.torch
import torch
from hf_folders import edit

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip, weights_hash


@pytest.mark.parametrize("layout", ["safetensors", "bin", "shards"])
def test_hub_repository(hf_hub, hf_toy, layout):
    folder, requests = hf_hub
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
    assert weights_hash(clip.model) == weights_hash(load_clip(str(hf_toy)).model)
    assert not any(fnmatch("model.safetensors", pattern) for pattern in requests[0])
    assert len(requests) == (3 if layout == "bin" else 2)


def test_hub_repository_of_another_kind(hf_hub):
    folder, requests = hf_hub
    edit(folder / "config.json", model_type="blip")
    with pytest.raises(ModelError, match="a 'blip' model"):
        load_clip("hf-hub:someone/blip")
    assert len(requests) == 1
    (folder / "config.json").unlink()
    shutil.rmtree(folder.parent / "cache")
    with pytest.raises(ModelError, match=r"neither open_clip_config\.json nor config\.json"):
        load_clip("hf-hub:someone/nothing")
