"""Held-out pictures with their labels, on which a bundle's threshold is calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.api.training_pictures import run_config
from tinyclip_edge.errors import DataError, ModelError
from tinyclip_edge.paths import expanded, is_folder
from tinyclip_edge.runtime.picture_files import folder_pictures

if TYPE_CHECKING:
    from tinyclip_edge.runtime.label_calibration import HeldOut

NAMED = 3  # labels of a message


def held_out_images(
    source: str | Path, labels: Sequence[str], templates: Sequence[str], model: str | Path
) -> HeldOut:
    """Return the pictures of a folder with labels: its class folders, or those of a teacher.

    Without ``labels`` they are the names of the class folders. A folder without class folders needs
    labels and a run, whose teacher names the pictures. Raises DataError, ModelError.
    """
    from tinyclip_edge.runtime.label_calibration import HeldOut

    folder = Path(expanded(source))
    if not is_folder(folder) or _has_classes(folder):
        images, names = _classes(folder)
        known = tuple(labels) or tuple(sorted(set(names)))
        unknown = sorted(set(names) - set(known))
        if unknown:
            more = " …" if len(unknown) > NAMED else ""
            raise DataError(
                f"{folder}: {len(unknown):,} class folders are no labels: "
                f"{', '.join(unknown[:NAMED])}{more}"
            )
        targets = [known.index(name) for name in names]
        held_out = HeldOut(images, targets, known, tuple(templates))
        held_out.check()
        return held_out
    if not labels:
        raise DataError(f"{folder} has no class folders; add --labels FILE, or sort the images")
    return _taught(folder, labels, templates, model)


def _has_classes(folder: Path) -> bool:
    pictures = folder_pictures([folder])
    return any(Path(picture).parent != folder for picture in pictures)


def _classes(folder: Path) -> tuple[list[Path | bytes], list[str]]:
    from tinyclip_edge.evaluation.class_images import class_images

    images = class_images(folder).images
    return [image.image for image in images], [image.label for image in images]


def _taught(
    folder: Path, labels: Sequence[str], templates: Sequence[str], model: str | Path
) -> HeldOut:
    """Return the pictures of a folder with the labels that the teacher of a run gives them."""
    config = run_config(Path(model))
    if config is None:
        raise ModelError(
            f"{folder} has no class folders, and {model} is no run whose teacher could name the "
            "images; put them in a folder per label"
        )
    from tinyclip_edge.models import TorchEmbedder, load_clip
    from tinyclip_edge.runtime.label_calibration import HeldOut

    teacher = TorchEmbedder(load_clip(config.teacher.model, config.teacher.pretrained))
    held_out = HeldOut.by_teacher(teacher, folder_pictures([folder]), labels, templates)
    held_out.check()
    return held_out
