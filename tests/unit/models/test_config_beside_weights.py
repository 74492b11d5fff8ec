"""A config beside weights is compared with them before memory is taken for it."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.models.convert import convert_checkpoint
from tinyclip_edge.models.huggingface import save_huggingface
from tinyclip_edge.models.pruned import assemble_config
from tinyclip_edge.models.pruned_units import UNITS
from tinyclip_edge.models.weights import read_weights

HUGE = 1_000_000
UNIT_TABLE = {
    "image": {"width": 128, "head_width": 64, "heads": [1, 2, 2, 2], "neurons": [512] * 4,
              "positions": 17},
    "text": {"width": 128, "head_width": 64, "heads": [2, 2, 2], "neurons": [512] * 3,
             "positions": 16},
    "embed_dim": 64, "patch": 8,
}  # fmt: skip


class LargestTensor(TorchDispatchMode):
    """The most elements of a tensor that was made outside the meta device."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and not value.is_meta:
                self.elements = max(self.elements, value.untyped_storage().nbytes() // 4)
        return result


@pytest.fixture
def folder(toy_teacher_folder, tmp_path):
    return shutil.copytree(toy_teacher_folder, tmp_path / "model")


@pytest.fixture
def clip_model(toy_teacher, tmp_path):
    save_huggingface(tmp_path / "hf", toy_teacher)
    (tmp_path / "hf" / "open_clip_config.json").unlink()
    return tmp_path / "hf"


@pytest.fixture
def pruned(toy_teacher, tmp_path):
    config = {**toy_teacher.config, UNITS: UNIT_TABLE}
    clip = assemble_config(config, name="cut", tokenizer_file=toy_teacher.tokenizer_file)
    save_local_dir(tmp_path / "cut", clip)
    return tmp_path / "cut"


def edit(path, *keys, value):
    config = json.loads(path.read_text())
    table = config
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    path.write_text(json.dumps(config))


def refused(call, message):
    with LargestTensor() as created, pytest.raises(ModelError, match=message):
        call()
    assert created.elements < HUGE


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("embed_dim",), HUGE, r"misshapen \(text_projection \[128, 64\] for \[128, 1000000\]"),
        (("text_cfg", "vocab_size"), HUGE,
         r"token_embedding.weight \[\d+, 128\] for \[1000000, 128\]"),
        (("text_cfg", "context_length"), 60_000,
         r"masks and tables of this model_cfg have 3,600,000,000 values"),
        (("vision_cfg", "mlp_ratio"), 1000.0, r"12 misshapen .*\[512\] for \[128000\]"),
        (("vision_cfg", "layers"), 900, r"10752 missing \(visual.transformer.resblocks"),
    ],
)  # fmt: skip
def test_an_open_clip_folder(folder, keys, value, message):
    edit(folder / "open_clip_config.json", "model_cfg", *keys, value=value)
    refused(lambda: load_clip(str(folder)), message)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("projection_dim",), r"text_projection \[128, 64\] for \[128, 1000000\]"),
        (("vision_config", "intermediate_size"), r"mlp.c_fc.weight \[512, 128\] for \[1000000"),
    ],
)
def test_a_hugging_face_folder(clip_model, keys, message):
    edit(clip_model / "config.json", *keys, value=HUGE)
    refused(lambda: load_clip(str(clip_model)), message)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("image", "neurons"), [HUGE, 512, 512, 512], r"mlp.c_fc.bias \[512\] for \[1000000\]"),
        (("image", "heads"), [HUGE, 2, 2, 2], r"attn.in_proj_bias \[192\] for \[192000000\]"),
        (("text", "neurons"), [10**15] * 3, "'units' describe more than 5e\\+10 parameters"),
        (("text", "heads"), [0] * 10**5, "heads of 100,000 layers, neurons of 3"),
    ],
)
def test_a_pruned_folder(pruned, keys, value, message):
    load_clip(str(pruned))
    edit(pruned / "tinyclip_edge_config.json", UNITS, *keys, value=value)
    refused(lambda: load_clip(str(pruned)), message)


def test_a_pruned_folder_of_many_layers(pruned):
    for key in ("heads", "neurons"):
        edit(pruned / "tinyclip_edge_config.json", UNITS, "text", key, value=[0] * 10**5)
    refused(lambda: load_clip(str(pruned)), "text lists 100,000 layers, at most 1,000 are built")


def test_a_config_for_a_weight_file(folder):
    config = folder / "open_clip_config.json"
    edit(config, "model_cfg", "embed_dim", value=HUGE)
    weights = str(folder / "open_clip_model.safetensors")
    message = r"text_projection \[128, 64\] for \[128, 1000000\]"
    refused(lambda: convert_checkpoint(weights, config=str(config)), message)


def test_an_open_clip_name_for_a_weight_file(folder):
    weights = str(folder / "open_clip_model.safetensors")
    message = r"token_embedding.weight \[\d+, 128\] for \[49408, 512\]"
    refused(lambda: load_clip("ViT-B-32", weights), message)
    refused(lambda: convert_checkpoint(weights, config="ViT-B-32"), message)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("embed_dim",), HUGE, r"text_projection \[128, 64\] for \[128, 1000000\]"),
        (("vision_cfg", "image_size"), 8000,
         r"its config needs 12\d,\d+,\d+, most of them in visual.positional_embedding "
         r"\[1000001, 128\]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_repository(folder, monkeypatch, name, keys, value, message):
    """open_clip reads these, and resizes positions."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    weights = folder / "open_clip_model.safetensors"
    if name != weights.name:
        torch.save(load_file(weights), folder / name)
        weights.unlink()
    edit(folder / "open_clip_config.json", "model_cfg", *keys, value=value)
    refused(lambda: load_clip("hf-hub:owner/name"), message)


def test_a_repository_of_another_image_size_is_resized(folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    edit(folder / "open_clip_config.json", "model_cfg", "vision_cfg", "image_size", value=64)
    clip = load_clip("hf-hub:owner/name")
    assert clip.model.visual.positional_embedding.shape == (65, 128)


@pytest.mark.parametrize("block", ["999999999", "0" * 5000, "1000"])
def test_a_block_of_a_high_number_is_refused(folder, block):
    weights = folder / "open_clip_model.safetensors"
    state = load_file(weights) | {f"transformer.resblocks.{block}.ln_1.bias": torch.ones(1)}
    save_file(state, weights)
    with pytest.raises(ModelError, match=r"has a tensor of block .*at most 1,000 blocks are read"):
        convert_checkpoint(str(weights))


def test_tensors_that_share_their_values_are_refused(tmp_path):
    """In single precision each would be a copy: 2,000 of 256 KB from a file of 1 MB."""
    path, shared = tmp_path / "w.pt", torch.ones(1 << 16, dtype=torch.float16)
    torch.save({f"a{number}": shared for number in range(2000)}, path)
    with pytest.raises(ModelError, match="tensors of 262,144,000 bytes in a file of"):
        read_weights(path)
    torch.save({"a": shared, "b": shared}, path)  # as towers that are stored twice
    assert read_weights(path)["b"].dtype == torch.float32
