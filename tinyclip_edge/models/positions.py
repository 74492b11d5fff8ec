"""Fit the positional embedding of an image tower to another image size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VIT_POSITIONS = "visual.positional_embedding"
RESNET_POSITIONS = "visual.attnpool.positional_embedding"
TIMM_POSITIONS = "visual.trunk.pos_embed"
RESNET_STRIDE = 32  # pixels of the picture per position


def resize_positions(
    teacher: nn.Module, student: nn.Module
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the teacher's weights with the student's grid of image positions, and notes.

    Interpolation is bicubic and antialiased; positions of class tokens are copied.
    """
    state = whole_state(teacher)
    student_state = student.state_dict()
    notes = []
    for key in (VIT_POSITIONS, RESNET_POSITIONS, TIMM_POSITIONS):
        if key not in state or key not in student_state:
            continue
        before, after = _grid(teacher), _grid(student)
        if before == after:
            continue
        table = state[key].reshape(-1, state[key].shape[-1])  # timm's has a batch axis of 1
        tokens = len(table) - before[0] * before[1]  # class and register tokens that have one
        first, places = table[:tokens], table[tokens:]
        picture = places.T.reshape(1, -1, *before)  # [1, width, rows, columns]
        resized = functional.interpolate(picture, size=after, mode="bicubic", antialias=True)
        fitted = torch.cat([first, resized.flatten(2)[0].T])
        state[key] = fitted.reshape(*state[key].shape[:-2], *fitted.shape)
        notes.append(f"{key} interpolated from {len(table):,} to {len(fitted):,} positions")
    return state, tuple(notes)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model, including text positions that it computes, not stores."""
    return {**_computed_positions(model), **model.state_dict()}


def _grid(model: nn.Module) -> tuple[int, int]:
    """Return the rows and columns of patches of the image tower."""
    visual = model.get_submodule("visual")
    patches = getattr(getattr(visual, "trunk", None), "patch_embed", visual)
    size = getattr(patches, "grid_size", None)
    if size is None:
        size = int(visual.image_size) // RESNET_STRIDE  # type: ignore[arg-type]
    rows, columns = size if isinstance(size, tuple) else (size, size)
    return int(rows), int(columns)


def _computed_positions(model: nn.Module) -> dict[str, Tensor]:
    """Return the sinusoids of an M2M-100 encoder, which it does not store, under their key.

    They depend on the width: a narrower student stores its teacher's, cut to its own width.
    """
    encoder = getattr(getattr(model, "text", None), "transformer", None)
    table = getattr(getattr(encoder, "embed_positions", None), "weights", None)
    return {} if table is None else {"text.transformer.embed_positions.weights": table}
