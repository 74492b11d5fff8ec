"""Thumbnails in a terminal, decoded again as a terminal would."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge.collection.terminal_pictures import picture_protocol, thumbnail_sequence


@pytest.mark.parametrize(
    ("variables", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
        ({}, None),
    ],
)
def test_terminals_that_show_pictures(variables, protocol):
    assert picture_protocol(variables) == protocol


@pytest.mark.parametrize("protocol", ["kitty", "iterm2"])
def test_a_terminal_receives_the_thumbnail(tmp_path, protocol):
    noise = np.random.default_rng(0).integers(0, 255, (300, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    text = thumbnail_sequence(str(tmp_path / "a.png"), protocol)
    if protocol == "kitty":
        parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
        last = [control.split(",")[-1] for control, _ in parts]
        assert len(parts) > 1 and last == ["m=1"] * (len(parts) - 1) + ["m=0"]
        assert parts[0][0].startswith("a=T,f=100") and max(len(p) for _, p in parts) <= 4096
        content = base64.b64decode("".join(payload for _, payload in parts))
    else:
        match = re.fullmatch(r"\x1b\]1337;File=([^:]*):([^\a]*)\a\n", text)
        content = base64.b64decode(match[2])
        assert f"size={len(content)};" in match[1] and "inline=1" in match[1]
    with Image.open(io.BytesIO(content)) as shown:
        assert (shown.format, shown.size) == ("PNG", (160, 80))


def test_a_picture_that_is_gone_shows_nothing(tmp_path):
    assert thumbnail_sequence(str(tmp_path / "none.png"), "kitty") == ""
