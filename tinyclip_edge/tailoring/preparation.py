"""From a folder to two tables: training pictures, and held-out ones with the teacher's labels.

N pictures, C labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinyclip_edge.collection.duplicates import MIN_SCORE, first_duplicates, row_groups
from tinyclip_edge.data import FeatureStore, open_training
from tinyclip_edge.errors import DataError
from tinyclip_edge.models import LoadedClip, TorchEmbedder
from tinyclip_edge.runtime.prompts import class_features
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.tailoring.agreement import folder_targets, label_probabilities
from tinyclip_edge.tailoring.features import PictureFeatures, encode_pictures, fill_store
from tinyclip_edge.tailoring.pictures import PictureList
from tinyclip_edge.tailoring.request import TailorRequest
from tinyclip_edge.tailoring.split import held_out
from tinyclip_edge.tailoring.work import WorkFolder
from tinyclip_edge.train.preflight.domain_check import look_at_features

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.train.tasks.teacher import Teacher

Say = Callable[[str], None]
FEATURES = "pictures.npz"
JUDGED = 1000  # maximum number of held-out pictures that are used, evenly spaced


@dataclass(frozen=True, slots=True)
class Prepared:
    """Both parts of the pictures, and the teacher's probabilities for the held-out ones."""

    train: int  # number of pictures
    held_out: tuple[str, ...]  # paths
    probabilities: npt.NDArray[np.float64]  # the teacher's for the held-out pictures [N, C]
    bias: float | None  # of the teacher's sigmoid, also used for its students
    targets: list[int] | None  # true labels of the held-out pictures, if folders name them
    notes: tuple[str, ...]


def prepare(
    request: TailorRequest,
    work: WorkFolder,
    listed: PictureList,
    clip: LoadedClip,
    config: RunConfig,
    say: Say,
) -> Prepared:
    """Encode all pictures, split them, and write tables and the feature cache of the runs.

    Features that an earlier call computed are read. ``config`` is that of any run. Raises
    DataError.
    """
    from tinyclip_edge.train.accelerator import make_accelerator
    from tinyclip_edge.train.builder import make_teacher

    teacher = make_teacher(config, clip, make_accelerator(config.run).device)
    pictures = _encoded(work, listed, teacher, config.data.workers, say)
    listed.without(pictures.unreadable).check_readable()
    digests = {picture.path: picture.sha256 for picture in listed.pictures}
    unit = pictures.unit
    classes = class_features(TorchEmbedder(clip), request.labels, request.templates)
    firsts = first_duplicates(unit, min_score=MIN_SCORE)
    look = look_at_features(
        clip,
        unit,
        request.labels,
        templates=request.templates,
        names=[os.path.relpath(path, listed.folder) for path in pictures.paths],
        classes=classes,
        firsts=firsts,
    )
    for finding in look.findings:
        if finding.refuses:
            raise DataError(f"{listed.folder}: {finding.text}")
    groups = row_groups(firsts)
    chosen = held_out([digests[path] for path in pictures.paths], groups)
    probabilities = label_probabilities(unit, classes, clip.logit_scale, clip.logit_bias)
    warnings = [finding.text for finding in look.findings]
    notes = (*_notes(pictures, listed, groups, chosen), *warnings)
    for note in notes:
        say(note)
    _write_tables(request, work, pictures, chosen, probabilities)
    store = FeatureStore(work.features, teacher.recipe(None), say)
    fill_store(store, open_training(config.data), pictures, teacher)
    rows = np.flatnonzero(chosen)
    rows = rows[:: max(1, -(-len(rows) // JUDGED))]
    paths = tuple(pictures.paths[row] for row in rows)
    targets = folder_targets(paths, request.labels)
    return Prepared(
        int((~chosen).sum()), paths, probabilities[rows], clip.logit_bias, targets, notes
    )


def _encoded(
    work: WorkFolder, listed: PictureList, teacher: Teacher, workers: int, say: Say
) -> PictureFeatures:
    path = work.path / FEATURES
    pictures = PictureFeatures.load(path)
    if pictures is not None:
        return pictures
    say(f"the teacher reads {len(listed.pictures):,} pictures, once")
    pictures = encode_pictures(
        teacher, [picture.path for picture in listed.pictures], workers=workers
    )
    if not np.isfinite(pictures.rows).all():
        raise DataError("the teacher's features of a picture are not finite; use another teacher")
    pictures.save(path)
    return pictures


def _write_tables(
    request: TailorRequest,
    work: WorkFolder,
    pictures: PictureFeatures,
    chosen: npt.NDArray[np.bool_],
    probabilities: Features | npt.NDArray[np.float64],
) -> None:
    """Write training pictures, held-out ones with the teacher's labels, and all texts."""
    rows = [{"image": pictures.paths[row]} for row in np.flatnonzero(~chosen)]
    work.write_rows(work.train, rows)
    prompts = [request.templates[0].replace("{}", label) for label in request.labels]
    rows = [
        {"image": pictures.paths[row], "caption": prompts[probabilities[row].argmax()]}
        for row in np.flatnonzero(chosen)
    ]
    work.write_rows(work.held_out, rows)
    work.write_lines(work.lines("texts"), request.prompts)
    for name in ("labels", "templates"):
        work.write_lines(work.lines(name), list(getattr(request, name)))


def _notes(
    pictures: PictureFeatures,
    listed: PictureList,
    groups: list[list[int]],
    chosen: npt.NDArray[np.bool_],
) -> tuple[str, ...]:
    lines = [
        f"{int((~chosen).sum()):,} pictures to learn from, {int(chosen.sum()):,} held out by their "
        "content"
    ]
    if groups:
        alike = sum(map(len, groups))
        lines.append(
            f"{alike:,} pictures are nearly the same as others; each of their {len(groups):,} "
            "groups is either held out or not"
        )
    unreadable = (*listed.unreadable, *pictures.unreadable)
    if unreadable:
        lines.append(f"{len(unreadable):,} pictures cannot be read: {', '.join(unreadable[:3])}")
    return tuple(lines)
