"""Limits of the server, by name."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclip_edge.limits import MIB


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much of the machine one request, and all requests together, may use."""

    request_bytes: int = 32 * MIB  # body of one request
    values: int = 20_000  # values and keys in the JSON of one request, strings counted twice
    body_bytes: int = 256 * MIB  # bodies of all requests in progress
    body_seconds: float = 30.0  # between two parts of a body
    image_pixels: int = 50_000_000  # of one picture, checked before decoding
    inputs: int = 256  # texts or pictures of one request; labels have a limit of their own
    labels: int = 4096  # prompts of one classification: labels times templates
    prompt_chars: int = 1_000_000  # of all prompts together
    text_chars: int = 20_000  # of one text; a model reads the first few hundred
    waiting: int = 2048  # texts or pictures that wait for the model
    batch: int = 32  # texts or pictures that the model embeds at once
    hits: int = 1000  # results of one search
