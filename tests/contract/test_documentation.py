"""Pages that come from code are up to date, and the site builds without a broken link."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinyclip_edge.cli.app import app
from tinyclip_edge.config import load_config
from tinyclip_edge.config.reference import SCHEMAS, config_keys, matching_keys
from tinyclip_edge.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_key_has_a_sentence(schema):
    for entry in config_keys(schema):
        assert entry.description.endswith("."), entry.key


def test_every_key_that_stands_alone_can_be_overridden():
    """The reference names exactly the keys that a configuration has when it is resolved."""
    from tinyclip_edge.config import flatten

    resolved = set(flatten(load_config("starter")))
    listed = {entry.key for entry in config_keys("run")}
    listed |= {key.rpartition(".")[0] for key in listed}  # a section that is empty by default
    inside_values = ("student.model.", "stages")
    assert {key for key in resolved if not key.startswith(inside_values)} <= listed


def test_a_key_is_explained_with_its_default():
    result = CliRunner().invoke(app, ["config", "optim.lr"])
    assert result.exit_code == 0
    first, sentence = result.output.splitlines()[:2]
    assert first.startswith("optim.lr: float, ")
    assert sentence.startswith("    ") and sentence.endswith(".")


def test_a_section_is_explained_key_by_key():
    keys = [entry.key for entry in matching_keys("loss")]
    assert keys[0] == "loss.affinity" and all(key.startswith("loss.") for key in keys)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"no configuration key 'optim\.lrr'; did you mean 'optim"
    ):
        matching_keys("optim.lrr")


def test_reference_pages_are_what_the_code_says():
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(
        command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert "encode_image" in page
