"""Fixtures of checkpoints and of Hugging Face folders."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch

import huggingface_hub
import pytest

from tinyclip_edge.models import load_clip, save_huggingface


@pytest.fixture
def place(tmp_path, toy_tokenizer_file):
    """A folder with the tokenizer that the toy's vocabulary needs."""
    shutil.copyfile(toy_tokenizer_file, tmp_path / "tokenizer.json")
    return tmp_path


@pytest.fixture(scope="session")
def hf_toy(toy_teacher_folder, tmp_path_factory):
    """The toy teacher as transformers would lay it out, nothing of open_clip's. Do not write."""
    folder = tmp_path_factory.mktemp("hf") / "toy"
    save_huggingface(folder, load_clip(str(toy_teacher_folder)))
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def hf_folder(hf_toy, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(hf_toy, tmp_path / "toy")


@pytest.fixture
def hf_hub(monkeypatch, hf_toy, tmp_path):
    """A hub whose repositories all hold the toy; the requested patterns."""
    requested = []

    def download(repository, allow_patterns):
        requested.append(allow_patterns)
        target = tmp_path / "cache"
        target.mkdir(exist_ok=True)
        for path in hub_folder.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, target / path.name)
        return str(target)

    hub_folder = shutil.copytree(hf_toy, tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return hub_folder, requested
