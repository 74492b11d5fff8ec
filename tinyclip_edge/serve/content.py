"""Pictures and vectors as text: data URLs and base64."""

from __future__ import annotations

import base64
import binascii
import json
import re

import numpy as np
from fastapi.responses import JSONResponse

from tinyclip_edge.runtime.images import image_header
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.serve.errors import RequestError

_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]*)(;[\w=.+-]+)*?;base64,", re.ASCII | re.IGNORECASE)
_DATA = "data:"
# Whole texts that are addresses, and data URLs of any kind.
_ADDRESS = re.compile(r"(https?|ftp|file)://\S+\Z|data:[^\s,]*,", re.ASCII | re.IGNORECASE)
_HEAD_CHARS = 200  # that contain the comma of a data URL


class AsciiResponse(JSONResponse):
    """JSON in ASCII, because file names may not be valid UTF-8."""

    def render(self, content: object) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def is_picture(text: str, modality: str | None, label: str) -> bool:
    """Whether an input is a picture: a data URL, or anything if the request says so.

    Raise RequestError for an address that the request does not call a text.
    """
    if modality is not None:
        return modality == "image"
    if _DATA_URL.match(text[:_HEAD_CHARS]):
        return True
    if _ADDRESS.match(text):
        raise RequestError(
            f"{label} is an address: send the picture itself, as data:image/TYPE;base64,…; "
            'for its text, set "modality" to "text"'
        )
    return False


def picture_bytes(text: str, label: str, *, pixels: int) -> bytes:
    """Return the file in a data URL, or in plain base64.

    Raise RequestError for an address, for text that is not base64 and for more ``pixels``,
    DataError for a file that is not a picture. Addresses are refused because this server opens no
    connections.
    """
    if "://" in text[:_HEAD_CHARS]:
        raise RequestError(f"{label}: send the picture itself, as a data URL or base64")
    head = _DATA_URL.match(text[:_HEAD_CHARS])
    if head is None and text[: len(_DATA)].lower() == _DATA:
        raise RequestError(f"{label}: a data URL must be data:image/TYPE;base64,…")
    try:
        content = base64.b64decode(text[head.end() :] if head else text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{label}: not base64; send a data URL or base64") from None
    header = image_header(content, label)
    if header.width * header.height > pixels:
        raise RequestError(
            f"{label} has {header.width}x{header.height} pixels; this server decodes at most "
            f"{pixels:,}",
            413,
        )
    return content


def base64_vector(vector: Features) -> str:
    """Return float32 ``[D]`` in little-endian bytes as base64, as OpenAI's clients decode it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def rounded(vector: Features) -> list[float]:
    """Return a vector as short numbers, rounded to within 5e-8."""
    return [round(value, 7) for value in np.asarray(vector, dtype=np.float64).tolist()]
