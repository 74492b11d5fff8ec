"""Thumbnails in terminals that show pictures: kitty's protocol and iTerm2's."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

from tinyclip_edge.errors import DataError, MissingExtraError

ROWS = 5  # lines of text, the height of a thumbnail
EDGE = 160  # pixels of its longer side
_CHUNK = 4096  # characters of one kitty sequence
_ITERM = ("iTerm.app", "WezTerm", "mintty")


def picture_protocol(environment: Mapping[str, str]) -> str | None:
    """Return the protocol of a terminal by its environment variables, "kitty" or "iterm2", or None.

    Terminal multiplexers do not pass on either.
    """
    if environment.get("TMUX") or environment.get("STY"):
        return None
    if environment.get("KITTY_WINDOW_ID") or environment.get("TERM") in (
        "xterm-kitty",
        "xterm-ghostty",
    ):
        return "kitty"
    return "iterm2" if environment.get("TERM_PROGRAM") in _ITERM else None


def thumbnail_sequence(key: str, protocol: str) -> str:
    """Return the escape sequence that shows a picture; empty if it is gone or broken."""
    from tinyclip_edge.runtime.video import open_picture  # with Pillow, which few searches need

    try:
        picture = open_picture(key, 2 * EDGE).copy()
    except (DataError, MissingExtraError):
        return ""
    picture.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    content = base64.b64encode(buffer.getvalue()).decode()
    if protocol == "iterm2":
        size = f"size={len(buffer.getvalue())};height={ROWS}"
        return f"\x1b]1337;File=inline=1;preserveAspectRatio=1;{size}:{content}\a\n"
    chunks = [content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK)]
    controls = [f"a=T,f=100,r={ROWS},q=2,", *[""] * (len(chunks) - 1)]
    more = [1] * (len(chunks) - 1) + [0]
    sequences = (
        f"\x1b_G{control}m={follows};{chunk}\x1b\\"
        for control, follows, chunk in zip(controls, more, chunks, strict=True)
    )
    return f"{''.join(sequences)}\n"
