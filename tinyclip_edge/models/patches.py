"""Fit the patch embedding of an image tower to another patch size."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tinyclip_edge.inheritance.tower_kinds import recognise


def resize_patches(
    teacher_state: Mapping[str, Tensor], student_state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the teacher's weights with patches of the student's size, and notes.

    Uses the pseudo-inverse of bilinear resizing (FlexiViT, arXiv 2212.08013): a patch of the
    teacher's size, enlarged, gives the same token as before; for smaller patches, tokens change as
    little as possible. Nothing is resized if the towers differ in kind or have no patches.
    """
    from timm.layers.patch_embed import resample_patch_embed

    state = dict(teacher_state)
    kind, prefix = recognise(state, "image")
    key = prefix + kind.patch
    if not kind.patch or key not in student_state:
        return state, ()
    before, after = state[key], student_state[key].shape[-2:]
    if before.shape[-2:] == after:
        return state, ()
    resized = resample_patch_embed(before, list(after), interpolation="bilinear", antialias=True)
    state[key] = resized
    pixels = (f"{rows:,}x{columns:,}" for rows, columns in (before.shape[-2:], after))
    return state, (f"{key} resized from patches of {' to '.join(pixels)} pixels",)
