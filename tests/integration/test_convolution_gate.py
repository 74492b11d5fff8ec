"""The image tower of a FastViT that 8 bits damage stays float, and the command line says so."""

from __future__ import annotations

import json

import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.models import save_local_dir
from tinyclip_edge.models.assemble import assemble

pytestmark = pytest.mark.slow

OUTLIER = 300.0  # a channel this much larger leaves the others of its layer less than a step of 255


@pytest.fixture
def damaged(toy_teacher, tmp_path):
    """A toy CLIP with timm's smallest FastViT, each of whose blocks has one such channel."""
    config = toy_teacher.config["model_cfg"] | {
        "vision_cfg": {"timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None,
                       "image_size": 64},
    }  # fmt: skip
    preprocess_cfg = toy_teacher.config["preprocess_cfg"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer_file = toy_teacher.tokenizer_file
        clip = assemble(config, preprocess_cfg, name="a", tokenizer_file=tokenizer_file)
    with torch.no_grad():
        for name, module in clip.model.get_submodule("visual").named_modules():
            if name.endswith("layer_scale"):
                module.gamma.fill_(1.0)  # random weights would hide behind 1e-5
            if name.endswith("mlp"):
                for layer in (module.fc1, module.fc2):
                    layer.weight.mul_(5)
                module.fc1.weight[0] *= OUTLIER
                module.fc2.weight[:, 0] /= OUTLIER
    save_local_dir(tmp_path / "fastvit", clip)
    return tmp_path / "fastvit"


def test_a_damaged_int8_is_left_in_float_and_said(damaged, tmp_path, command_line):
    pairs = write_shard(tmp_path / "pairs.tar", toy_samples((64,)))
    out = tmp_path / "bundle"
    options = ("--data", pairs, "--max-drop", "100", "--no-search", "--out", out)
    code, text, err = command_line("export", damaged, "--int8", *options)
    assert code == 0
    said = " ".join((text + err).split())
    assert "int8 image" in said and "float" in said and "0.995" in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert "float" in json.dumps(manifest["recipe"]["int8"]["image"])
    towers = manifest["towers"]["image"]
    assert (out / towers["int8"]).stat().st_size == (out / towers["fp32"]).stat().st_size
