"""Names of videos, and keys of their frames: ``clip.mp4#t=12.0``, with the time in seconds."""

from __future__ import annotations

import re
from pathlib import PurePath

# Suffix to FFmpeg's name of the container. No other reader is tried on a file, because some open
# further files or addresses that its content names.
CONTAINERS = {
    **dict.fromkeys(("mp4", "m4v", "mov", "3gp"), "mov"),
    **dict.fromkeys(("mkv", "webm"), "matroska"),
    **dict.fromkeys(("mpg", "mpeg"), "mpeg"),
    **dict.fromkeys(("mts", "m2ts"), "mpegts"),
    "avi": "avi",
    "wmv": "asf",
    "flv": "flv",
    "ogv": "ogg",
}
_FRAME = re.compile(rf"(?P<path>.+\.(?:{'|'.join(CONTAINERS)}))#t=(?P<seconds>\d+(?:\.\d+)?)", re.I)


def is_video_name(name: str) -> bool:
    """Whether a file name has the suffix of a video, in any case; see ``is_image_name``."""
    path = PurePath(name)
    return path.suffix[1:].lower() in CONTAINERS and not path.name.startswith("._")


def frame_key(path: str, seconds: float) -> str:
    """Return the key of a video's frame."""
    return f"{path}#t={round(seconds, 3)}"


def split_key(key: str) -> tuple[str, float | None]:
    """Return path and seconds of a frame's key; of a picture's key, itself and None."""
    match = _FRAME.fullmatch(key) if "#t=" in key else None
    return (key, None) if match is None else (match["path"], float(match["seconds"]))


def shown_key(key: str) -> str:
    """Return a key for display: a frame's as its video and a time such as 1:02:05."""
    path, seconds = split_key(key)
    if seconds is None:
        return key
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    clock = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{path} at {clock}:{rest:04.1f}".removesuffix(".0")
