"""open_clip without its root-logger lines and warnings on the user's terminal."""

from __future__ import annotations

from tinyclip_edge.models.quiet import quiet

with quiet():
    import open_clip

__all__ = ["open_clip", "quiet"]
