"""A folder of small pictures in the working folder, and an index of it."""

from __future__ import annotations

import pytest
from PIL import Image

COLOURS = ("red", "lime", "blue", "white", "black", "orange")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in COLOURS:
        Image.new("RGB", (12, 9), name).save(folder / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def indexed(photos, shared_tiny_bundle, command_line):
    """The folder, indexed in pictures.npz of the working folder."""
    assert command_line("index", photos, "--bundle", shared_tiny_bundle.folder)[0] == 0
    return photos
