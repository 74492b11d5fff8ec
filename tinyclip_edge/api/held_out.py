"""Held-out pictures with their labels, on which a bundle's threshold is calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.api.training_pictures import run_config
from tinyclip_edge.errors import DataError, ModelError, first_names
from tinyclip_edge.paths import expanded, is_folder
from tinyclip_edge.runtime.picture_files import folder_pictures

if TYPE_CHECKING:
    from tinyclip_edge.runtime.label_calibration import HeldOut

NAMED = 3  # labels in a message


def held_out_images(
    source: str | Path, labels: Sequence[str], templates: Sequence[str], model: str | Path
) -> HeldOut:
    """Return the pictures of a folder, labelled by its class folders or by a teacher.

    Without ``labels``, the labels are the names of the class folders. A folder without class
    folders needs ``labels`` and, as ``model``, a run, whose teacher labels the pictures. Raises
    DataError, ModelError.
    """
    folder = Path(expanded(source))
    pictures = folder_pictures([folder]) if is_folder(folder) else []  # a tar has none
    if pictures and all(Path(picture).parent == folder for picture in pictures):
        held_out = _labelled_by_teacher(folder, pictures, labels, templates, model)
    else:
        held_out = _labelled_by_folders(folder, labels, templates)
    held_out.check()
    return held_out


def _labelled_by_folders(source: Path, labels: Sequence[str], templates: Sequence[str]) -> HeldOut:
    """Return the pictures of a folder or tar with the names of their class folders."""
    from tinyclip_edge.evaluation.class_images import class_images
    from tinyclip_edge.runtime.label_calibration import HeldOut

    images = class_images(source).images
    names = {image.label for image in images}
    known = tuple(labels) or tuple(sorted(names))
    unknown = sorted(names - set(known))
    if unknown:
        raise DataError(
            f"{source}: {len(unknown):,} class folders are not among the labels: "
            f"{first_names(unknown, NAMED)}"
        )
    targets = [known.index(image.label) for image in images]
    return HeldOut([image.image for image in images], targets, known, tuple(templates))


def _labelled_by_teacher(
    folder: Path,
    pictures: Sequence[str],
    labels: Sequence[str],
    templates: Sequence[str],
    model: str | Path,
) -> HeldOut:
    """Return pictures of a folder with the labels that the teacher of a run gives them."""
    if not labels:
        raise DataError(f"{folder} has no class folders; add --labels FILE, or sort the images")
    config = run_config(Path(model))
    if config is None:
        raise ModelError(
            f"{folder} has no class folders, and {model} is not a run whose teacher could label "
            "the images; sort them into a folder per label"
        )
    from tinyclip_edge.models import TorchEmbedder, load_clip
    from tinyclip_edge.runtime.label_calibration import HeldOut

    teacher = TorchEmbedder(load_clip(config.teacher.model, config.teacher.pretrained))
    return HeldOut.by_teacher(teacher, pictures, labels, templates)
