"""int8 of a FastViT that 8 bits damage is refused by the command line."""

from __future__ import annotations

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


def test_a_damaged_int8_is_refused_and_fp32_alone_is_written(damaged, tmp_path, command_line):
    pairs = write_shard(tmp_path / "pairs.tar", toy_samples((64,)))
    out = tmp_path / "bundle"
    options = ("--data", pairs, "--max-drop", "100", "--no-search", "--out", out)
    code, _, err = command_line("export", damaged, "--int8", *options)
    assert code == 3
    assert "error: export refused, nothing written: int8 image values: cosine 0." in err
    assert err.rstrip().endswith("is below 0.98")
    assert not out.exists()
    assert command_line("export", damaged, *options)[0] == 0
    assert sorted(path.name for path in (out / "onnx").iterdir()) == [
        "model.onnx", "text_model.onnx", "vision_model.onnx",
    ]  # fmt: skip
