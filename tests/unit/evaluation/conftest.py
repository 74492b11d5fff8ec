"""A starter kit of a few coloured squares."""

from __future__ import annotations

import pytest
from toy_embedders import write_kit


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A starter kit of three emoji, one flag, a second picture, and two icons."""
    from tinyclip_edge import starter

    folder = tmp_path / "shards"
    folder.mkdir()
    style = [
        ("red", "red", {}),
        ("green", "lime", {}),
        ("red", "darkred", {"canonical": False}),
        ("blue", "blue", {"flag": True}),
        ("green", "lime", {"kind": "icon"}),
        ("grey", "grey", {"kind": "icon"}),
    ]
    write_kit(folder, "test_style", style)
    write_kit(folder, "test_concepts", style)
    monkeypatch.setattr(starter, "kit_path", lambda: folder)
    return folder
