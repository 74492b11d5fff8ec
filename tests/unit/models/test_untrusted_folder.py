"""A model folder is data: no key and no file of it runs code or leads anywhere else."""

from __future__ import annotations

import json
import shutil

import pytest

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip
from tinyclip_edge.starter import teacher_path

EVIL = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import PreTrainedTokenizerFast
class Evil(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "model"
    shutil.copytree(teacher_path(), target)
    return target


def edit(folder, change):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    change(config["model_cfg"])
    path.write_text(json.dumps(config))


def plant(folder, mark):
    """Make the folder's tokenizer one of another family that names a Python file."""
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    # Without CLIP's names for start and end it is no CLIP tokenizer.
    text = json.dumps(tokenizer).replace("<|startoftext|>", "<s>").replace("<|endoftext|>", "</s>")
    (folder / "tokenizer.json").write_text(text)
    path = folder / "tokenizer_config.json"
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("options", [{"trust_remote_code": True}, None])
def test_a_tokenizers_code_does_not_run(folder, tmp_path, options):
    mark = tmp_path / "it-ran"
    plant(folder, mark)
    edit(folder, lambda cfg: cfg["text_cfg"].update(tokenizer_kwargs=options))
    with pytest.raises(ModelError, match=r"trust_remote_code|auto_map"):
        load_clip(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [
        ("vision_cfg", "timm_model_name", "local-dir:/tmp/evil"),
        ("vision_cfg", "timm_model_name", "hf-hub:owner/name"),
        ("vision_cfg", "timm_model_name", "../evil"),
        ("text_cfg", "hf_model_name", "./evil"),
        ("text_cfg", "hf_model_name", "owner/unknown"),
        ("text_cfg", "hf_tokenizer_name", "/tmp/evil"),
        ("text_cfg", "hf_tokenizer_name", "../evil"),
        ("text_cfg", "hf_tokenizer_name", ["a"]),
        ("text_cfg", "tokenizer_mode", "bert"),
        ("text_cfg", "tokenizer_kwargs", {"bpe_path": "/etc/passwd"}),
        ("text_cfg", "tokenizer_kwargs", {"cache_dir": "/tmp"}),
        ("text_cfg", "tokenizer_kwargs", {"strip_sep_token": 1}),
        ("text_cfg", "tokenizer_kwargs", ["clean"]),
    ],
)
def test_names_that_lead_elsewhere_are_refused(folder, tower, key, value):
    edit(folder, lambda cfg: cfg[tower].update({key: value}))
    with pytest.raises(ModelError, match=key):
        load_clip(str(folder))


@pytest.mark.parametrize("command", ["export", "eval", "convert", "distill"])
def test_no_command_runs_it(folder, tmp_path, command, command_line):
    mark, out = tmp_path / "it-ran", str(tmp_path / "out")
    plant(folder, mark)
    edit(folder, lambda cfg: cfg["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}))
    weights = str(folder / "open_clip_model.safetensors")
    words = {
        "export": (str(folder), "--out", out),
        "eval": (str(folder), "--data", "starter:test_style"),
        "convert": (weights, "--config", str(folder), "--out", out),
        "distill": ("starter-15", "--out", out, f"teacher.model={folder}"),
    }[command]
    code, _, err = command_line(command, *words)
    assert code == 2, err
    assert "trust_remote_code" in err
    assert not mark.exists()
