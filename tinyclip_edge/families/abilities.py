"""The abilities in the table of families: each is run on a small sibling and its result checked.

A check returns nothing if the ability works, and otherwise raises an error that says why not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.families.published import check_published, sibling
from tinyclip_edge.inheritance.gates import CLAMP, ClipGates
from tinyclip_edge.inheritance.masked import MaskedClip
from tinyclip_edge.models import (
    LoadedClip,
    create_student,
    inherit_student,
    load_clip,
    save_local_dir,
)
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_edge.models.vocabulary import Vocabulary

Check: TypeAlias = Callable[[str, Path], None]  # takes a family and an empty folder

SAME, CLOSE = 1e-6, 1e-5  # largest differences in a component of unit-norm embeddings
COLOURS = ("red", "blue", "green", "black")
SHAPES = ("square", "circle", "cat", "dog", "star", "house", "tree", "fish")
TEXTS = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]


def export_int8(name: str, folder: Path) -> None:
    """Export fp32 and int8; the export itself compares them with PyTorch."""
    from tinyclip_export import export_bundle
    from tinyclip_export.settings import ExportSettings

    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 256, (40, 40, 3), np.uint8) for _ in TEXTS]
    export_bundle(
        sibling(name, folder),
        folder / "bundle",
        pairs=([Image.fromarray(pixels) for pixels in noise], TEXTS),
        max_drop=100.0,  # random weights rank at chance level
        settings=ExportSettings(search=False),
    )


def inherit(name: str, folder: Path) -> None:
    """Inherit into the same shape (the identity), and into half the depth (whole tensors only)."""
    teacher = sibling(name, folder)
    same = create_student({}, teacher)
    inherit_student(teacher, same)
    _compare(_features(same), _features(teacher), SAME)
    student = create_student(_half_depth(teacher), teacher)
    report = inherit_student(teacher, student, plan="evenly")
    tensors = [tensor for tensor in report.tensors if tensor.tower != "shared"]
    if any(tensor.origin != "copied" for tensor in tensors):
        raise InheritanceError("a student of half the depth does not inherit whole tensors")
    teacher_state, student_state = teacher.model.state_dict(), student.model.state_dict()
    if not all(
        torch.equal(student_state[t.key], teacher_state[t.teacher_key])
        for t in tensors
        if t.teacher_key
    ):
        raise InheritanceError("a block of the student differs from the teacher's")


def masks(name: str, folder: Path) -> None:
    """Compare a masked model with the one pruned by the same masks."""
    clip = sibling(name, folder)
    units = clip_units(clip)
    gates = ClipGates(units)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.uniform_(-CLAMP, CLAMP, generator=generator)
        drawn = gates.binarised()
        image, text, _ = MaskedClip(clip.model, units)(*_inputs(clip), drawn)
    _compare(_features(prune_clip(clip, drawn).clip), (image, text), CLOSE)


def trim(name: str, folder: Path) -> None:
    """Keep only the tokens of some texts, and check that their embeddings do not change."""
    clip = sibling(name, folder)
    vocabulary = Vocabulary(clip)
    corpus = vocabulary.read(TEXTS, "the texts")
    ids = vocabulary.needed(corpus)
    small = vocabulary.cut(ids)
    vocabulary.compare(small, ids, corpus)
    with torch.no_grad():
        before, after = (
            each.model.encode_text(each.tokenizer(TEXTS), normalize=True)  # type: ignore[operator]
            for each in (clip, small)
        )
    _compare((after,), (before,), SAME)


def read(name: str, folder: Path) -> None:
    """Write and reload a model; load it as transformers writes it, if transformers has it."""
    clip = sibling(name, folder)
    save_local_dir(folder / "open_clip", clip)
    _compare(_features(load_clip(str(folder / "open_clip"))), _features(clip), 0.0)
    check_published(name, folder / "transformers", CLOSE)


ABILITIES: dict[str, Check] = {
    "export int8": export_int8,
    "inherit": inherit,
    "masks": masks,
    "trim": trim,
    "read": read,
}


def _half_depth(clip: LoadedClip) -> dict[str, Any]:
    """Return the shape of a student with half the layers in each tower, or in each stage."""
    shape: dict[str, Any] = {}
    for tower in ("vision_cfg", "text_cfg"):
        layers = clip.config["model_cfg"][tower].get("layers", 4)
        staged = isinstance(layers, (list, tuple))
        half = [max(1, each // 2) for each in layers] if staged else layers // 2
        shape[tower] = {"layers": half}
    return shape


def _inputs(clip: LoadedClip) -> tuple[Tensor, Tensor]:
    """Return pixels ``[4, 3, H, W]`` and ids ``[4, L]``."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, clip.image_size, clip.image_size, generator=generator)
    return pixels, clip.tokenizer(TEXTS[::9])


@torch.no_grad()
def _features(clip: LoadedClip) -> tuple[Tensor, Tensor]:
    pixels, ids = _inputs(clip)
    model: Any = clip.model
    return model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)


def _compare(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], within: float) -> None:
    """Raise ModelError if embeddings differ."""
    for mine, other in zip(ours, theirs, strict=True):
        difference = float((mine - other).abs().max())
        if not difference <= within:
            raise ModelError(f"embeddings differ by {difference:.1g}, more than {within:g}")
