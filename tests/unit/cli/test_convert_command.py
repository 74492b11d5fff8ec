"""``tinyclip-edge convert`` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch

from tinyclip_edge.models import load_clip, weights_hash


@pytest.fixture
def checkpoint(tmp_path, toy_teacher, toy_tokenizer_file):
    """The toy teacher as its training script would leave it."""
    shutil.copyfile(toy_tokenizer_file, tmp_path / "tokenizer.json")
    path = tmp_path / "epoch_25.pt"
    state = {f"module.{key}": t for key, t in toy_teacher.model.state_dict().items()}
    torch.save({"epoch": 25, "state_dict": state}, path)
    return path


@pytest.fixture
def run(command_line):
    """Run ``convert`` in this process; return exit code, stdout and stderr."""
    return partial(command_line, "convert")


def test_it_says_what_it_detected(run, checkpoint, tmp_path, toy_teacher):
    code, out, _ = run(checkpoint, "--out", tmp_path / "toy")
    assert code == 0
    fields = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert fields["found"] == "B + C: inside 'state_dict', wrapped for distributed training"
    assert fields["architecture"].startswith("ViT/8 of width 128, 4 layers, 2 heads")
    assert fields["activation"] == "GELU (by default)"
    assert fields["saved"] == str(tmp_path / "toy")
    assert weights_hash(load_clip(str(tmp_path / "toy")).model) == weights_hash(toy_teacher.model)


def test_json_and_hugging_face(run, checkpoint, tmp_path):
    options = ["--format", "huggingface", "--quick-gelu", "--json"]
    code, out, _ = run(checkpoint, "--out", tmp_path / "toy", *options)
    assert code == 0
    printed = json.loads(out)
    assert printed["forms"] == ["B", "C"]
    assert printed["activation"] == "QuickGELU (as requested)"
    assert printed["parameters"]["image"] == 828_672
    config = json.loads((tmp_path / "toy" / "config.json").read_text())
    assert config["vision_config"]["hidden_act"] == "quick_gelu"
    assert load_clip(str(tmp_path / "toy")).config["model_cfg"]["quick_gelu"] is True


def test_what_cannot_be_opened_is_one_line_and_leaves_nothing(run, checkpoint, tmp_path):
    class Code:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'it-ran'}",)

    evil = tmp_path / "evil.pt"
    torch.save({"state_dict": Code()}, evil)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    before = sorted(path.name for path in tmp_path.iterdir())
    for args, message in (
        ([evil], "may run code"),
        ([cut], "damaged or cut short"),
        ([tmp_path / "none.pt"], "no checkpoint file"),
        ([checkpoint, "--config", "TinyCLIP-ViT-8M-16-Text-3M"], "does not fit its config"),
        ([tmp_path], "is neither an open_clip folder"),
    ):
        code, out, err = run(*args, "--out", tmp_path / "new")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_in_use_is_not_overwritten(run, checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    code, _, err = run(checkpoint, "--out", tmp_path / "mine")
    assert code == 2
    assert "is not empty; choose a new folder with --out" in err
    assert run(checkpoint, "--out", checkpoint)[0] == 2


def test_help_needs_no_torch():
    code = (
        "import sys; sys.argv = ['tinyclip-edge', 'convert', '--help']\n"
        "from tinyclip_edge.cli import app\n"
        "try: app.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--format" in done.stdout
