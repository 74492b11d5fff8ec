"""Embedding prefixes that a model was trained for (Matryoshka), as its configuration lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.clip import PREFIXES, LoadedClip

MAX_PREFIXES = 64


def with_prefixes(clip: LoadedClip, lengths: Sequence[int]) -> LoadedClip:
    """Return a model whose configuration lists these lengths, or has no entry if there are none."""
    config = {key: value for key, value in clip.config.items() if key != PREFIXES}
    if lengths:
        config[PREFIXES] = list(lengths)
    return replace(clip, config=config)


def read_prefixes(config: Mapping[str, Any], source: str) -> dict[str, list[int]]:
    """Return the entry of an untrusted configuration, if it has one. Raises ModelError."""
    lengths = config.get(PREFIXES)
    if lengths is None:
        return {}
    width = config["model_cfg"]["embed_dim"]
    is_list = isinstance(lengths, list) and 0 < len(lengths) <= MAX_PREFIXES
    if not is_list or not all(type(n) is int and 0 < n < width for n in lengths):
        raise ModelError(f"{source}: {PREFIXES} must list lengths from 1 to {width - 1}")
    return {PREFIXES: sorted(set(lengths))}
