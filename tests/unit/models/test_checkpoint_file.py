"""Files that come from anywhere: opened without running what they carry, or refused in a line."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.checkpoint_file import read_checkpoint
from tinyclip_edge.models.weights import stored_shapes

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


class Code:
    """Asks the reader to make a file."""

    def __init__(self, path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


def refused(path):
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_arguments_of_a_training_script_come_along(tmp_path):
    path = tmp_path / "train.pt"
    arguments = argparse.Namespace(model="ViT-B-32", lr=1e-4, betas=[0.9, 0.98], resume=None)
    torch.save({"state_dict": WEIGHTS, "args": arguments, "epoch": 3}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint["args"] == arguments
    assert torch.equal(checkpoint["state_dict"]["a"], WEIGHTS["a"])
    assert checkpoint["state_dict"]["b"].dtype is torch.float16


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_does_not(tmp_path, zipped):
    path, mark = tmp_path / "evil.pt", tmp_path / "it-ran"
    content = {"state_dict": WEIGHTS, "extra": Code(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    text = refused(path)
    assert "posix.system" in text
    assert "may run code" in text
    assert not mark.exists()


def test_a_bare_pickle_does_not_run_either(tmp_path):
    path, mark = tmp_path / "evil.bin", tmp_path / "it-ran"
    path.write_bytes(pickle.dumps({"a": Code(mark)}))
    refused(path)
    assert not mark.exists()


def test_a_module_is_refused_by_its_class(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "torch.nn.modules.linear.Linear" in refused(path)


def test_a_torchscript_program_is_not_run(tmp_path):
    path = tmp_path / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.rand(1, 2)), path)
    assert "TorchScript program" in refused(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_cut_short(tmp_path, zipped, share):
    path = tmp_path / "cut.pt"
    torch.save({"a": torch.rand(400)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "damaged" in refused(path)


@pytest.mark.parametrize("name", ["noise.pt", "noise.safetensors"])
@pytest.mark.parametrize("seed", range(6))
def test_noise_is_refused(tmp_path, name, seed):
    path = tmp_path / name
    rng = np.random.default_rng(seed)
    # Bytes that begin as a pickle does reach deeper into the reader.
    path.write_bytes(b"\x80\x02" * (seed % 2) + rng.bytes(300))
    refused(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pt", b"", "is empty"),
        ("empty.safetensors", b"", "the file is empty"),
        ("page.pt", b"<!DOCTYPE html>\nnot found", "it is not a checkpoint"),
        ("text.safetensors", b"hello, this is a text", "damaged or cut short"),
    ],
)
def test_no_checkpoint(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refused(path)


def test_no_file_and_a_folder(tmp_path):
    assert "no weight file" in refused(tmp_path / "none.pt")
    assert "cannot be read" in refused(tmp_path)


def test_numpy_scalars_of_a_training_script_come_along(tmp_path):
    path = tmp_path / "epoch_0_iter_39.pt"
    content = {
        "state_dict": WEIGHTS,
        "args": argparse.Namespace(lr=np.float64(0.25)),
        "best": np.float32(1.5),
        "step": np.int64(39),
        "optimizer": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}],
    }
    torch.save(content, path)
    checkpoint = read_checkpoint(path)
    assert (checkpoint["args"].lr, checkpoint["best"], checkpoint["step"]) == (0.25, 1.5, 39)
    assert checkpoint["optimizer"][0]["state"][0]["exp_avg"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
def test_a_git_lfs_pointer_names_the_cure(tmp_path, name):
    """What `git clone` of a repository leaves without git-lfs."""
    path = tmp_path / name
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    for read in (read_checkpoint, stored_shapes):
        with pytest.raises(ModelError, match=rf"{name} is a Git LFS pointer, .*`git lfs pull`"):
            read(path)
