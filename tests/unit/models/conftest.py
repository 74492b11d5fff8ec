"""Fixtures of checkpoints."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def place(tmp_path, toy_tokenizer_file):
    """A folder with the tokenizer that the toy's vocabulary needs."""
    shutil.copyfile(toy_tokenizer_file, tmp_path / "tokenizer.json")
    return tmp_path
