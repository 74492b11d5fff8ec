"""Read text towers whose positions were stretched for long texts under a plain CLIP's names.

Long-CLIP (arXiv 2403.15378) and FG-CLIP (arXiv 2505.05071) leave CLIP's first 20 positions as they
were and train the rest of 248; their files hold the two parts in two tables of all 248 rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from tinyclip_edge.errors import ModelError, TinyClipWarning

FIRST = 20  # positions left as CLIP trained them
_LONG_CLIP = ("positional_embedding", "positional_embedding_res")
_EMBEDDINGS = "text_model.embeddings."
_POSITIONS = f"{_EMBEDDINGS}position_embedding.weight"
_ORIGINAL, _FURTHER = (f"{_EMBEDDINGS}position_embedding_{part}.weight" for part in ("ori", "res"))
_PROJECTION, _LONG_PROJECTION = "text_projection.weight", "text_filip_projection.weight"
_SCALES = ("logit_scale_finegraind", "logit_scale_hardneg")  # of losses that CLIP does not have


def is_long_clip(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of a Long-CLIP, with two tables of positions."""
    return _LONG_CLIP[1] in weights


def joined_positions(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return a Long-CLIP's weights with one table of positions. Raises ModelError."""
    first, further = _LONG_CLIP
    state = dict(weights)
    state[first] = _joined(state.get(first), state.pop(further), f"{source}: {first}")
    return state


def plain_fg_clip(
    weights: Mapping[str, Tensor], positions: int, source: str
) -> Mapping[str, Tensor]:
    """Return an FG-CLIP's weights as a CLIPModel's, others unchanged; names are transformers'.

    An FG-CLIP has positions and a projection for short captions, and others for long ones: those
    with ``positions`` rows are returned, with a warning that names the others. Raises ModelError.
    """
    if _ORIGINAL not in weights or _FURTHER not in weights:
        return weights
    state = dict(weights)
    table = _joined(state.pop(_ORIGINAL), state.pop(_FURTHER), f"{source}: {_ORIGINAL}")
    projection = state.pop(_LONG_PROJECTION, None)
    for name in _SCALES:
        state.pop(name, None)
    short = state[_POSITIONS].shape[:1].numel() if _POSITIONS in state else 0
    is_long = positions == len(table) != short
    if is_long and projection is not None:
        state[_POSITIONS], state[_PROJECTION] = table, projection
    read, other = (len(table), short) if is_long else (short, len(table))
    warnings.warn(
        f"{source} is an FG-CLIP: it is opened for texts of up to {read} tokens; for {other}, set "
        f"max_position_embeddings of text_config to {other} in config.json",
        TinyClipWarning,
        stacklevel=2,
    )
    return state


def _joined(first: Tensor | None, further: Tensor, source: str) -> Tensor:
    if first is None or first.shape != further.shape or first.ndim != 2 or len(first) <= FIRST:
        raise ModelError(
            f"{source} must have the shape of the further positions, {list(further.shape)}, and "
            f"more than {FIRST} rows"
        )
    return torch.cat([first[:FIRST], further[FIRST:]])
