"""A model folder is data: no key and no file of it runs code or leads anywhere else."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch

from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.models.tokenization import TOKENIZER_COMPANIONS
from tinyclip_edge.models.tokenizer_files import write_tokenizer
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
    # Without CLIP's names for start and end it is not a CLIP tokenizer.
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


def test_a_text_tower_of_python_code_does_not_run(folder, tmp_path, monkeypatch):
    """transformers would ask on the terminal whether to run it: here nobody is asked."""
    mark, tower = tmp_path / "it-ran", tmp_path / "owner" / "evil"
    tower.mkdir(parents=True)
    (tower / "evil.py").write_text(EVIL.format(mark=str(mark)))
    names = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    (tower / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it was asked"))
    edit(folder, lambda cfg: cfg.update(text_cfg={"hf_model_name": "owner/evil"}))
    with pytest.raises(ModelError, match=r"hf_model_name 'owner/evil' is not a text tower"):
        load_clip(str(folder))
    assert not mark.exists()


class Payload:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.parametrize("written", [torch.save, lambda content, path: path.write_bytes(content)])
@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.safetensors"])
def test_a_pickle_of_calls_does_not_run(folder, tmp_path, command_line, written, name):
    mark = tmp_path / "it-ran"
    content = {"state_dict": Payload(mark)}
    (folder / "open_clip_model.safetensors").unlink()
    written(content if written is torch.save else pickle.dumps(content), folder / name)
    with pytest.raises(ModelError, match=r"may run code|no checkpoint|damaged"):
        load_clip(str(folder))
    out = str(tmp_path / "out")
    code, _, err = command_line("convert", folder / name, "--config", folder, "--out", out)
    assert (code, err.count("\n")) == (2, 1), err
    assert not mark.exists()


def test_the_demos_add_a_model_runs_nothing(folder, tmp_path, capsys):
    mark = tmp_path / "it-ran"
    plant(folder, mark)
    registry = ModelRegistry(["starter-teacher"])
    registry.slots.clear()  # the evil one alone is to be loaded
    registry.add(str(folder))
    registry.load_all()
    (slot,) = registry.slots
    assert (slot.state, "auto_map" in slot.error) == ("failed", True), slot.error
    assert not mark.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", *TOKENIZER_COMPANIONS])
def test_a_link_out_of_the_folder_is_not_carried_along(folder, tmp_path, name):
    """Saved again and published, the model would have a stranger's secrets in it."""
    secret = tmp_path / "secret"
    secret.write_text('{"token": "hunter2"}')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(ModelError, match=rf"{name} is a link to another place"):
        load_clip(str(folder))


def test_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    """A snapshot there is a folder of links into blobs beside it."""
    cache = tmp_path / "models--someone--something"
    snapshot, blobs = cache / "snapshots" / "abc123", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    save_local_dir(tmp_path / "saved", load_clip(str(snapshot)))
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    assert not any(path.is_symlink() for path in (tmp_path / "saved").iterdir())


def test_what_asks_for_code_is_not_carried_along(folder, tmp_path):
    """CLIP's own tokenizer.json needs no other file, so the model opens."""
    names = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    save_local_dir(tmp_path / "saved", clip := load_clip(str(folder)))
    (tmp_path / "bundle").mkdir()
    write_tokenizer(clip, tmp_path / "bundle")
    for place in ("saved", "bundle"):
        config = json.loads((tmp_path / place / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "CLIPTokenizer"
        assert "auto_map" not in config


def test_links_that_an_installer_created_are_followed(folder, tmp_path, monkeypatch):
    """Some link a package's files into their own cache instead of copying them."""
    installed = tmp_path / "installed"
    installed.mkdir()
    for path in folder.iterdir():
        (installed / path.name).symlink_to(path)
    monkeypatch.setattr("tinyclip_edge.starter.teacher_path", lambda: installed)
    assert load_clip("starter-teacher").tokenizer_file == installed / "tokenizer.json"
