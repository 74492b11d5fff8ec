"""Build the command, for visitors to copy, that makes a student for their pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from tinyclip_demo.model_registry import ModelSlot
from tinyclip_edge.paths import exists
from tinyclip_edge.tailoring.request import TailorRequest, check_numbers

LABELS_FILE = "labels.txt"
FOLDER = "photos"  # placeholder for a folder whose path browsers do not reveal
BUDGET = ("max_mb", "max_ms", "minutes")
DEFAULTS = {each.name: each.default for each in fields(TailorRequest)}


def compared_models(slots: Sequence[ModelSlot], *, paths: bool) -> tuple[str | None, str | None]:
    """Return two MODELs: the teacher, which is the first in PyTorch, and the first other one.

    Models that are files of this machine are left out unless ``paths``.
    """
    usable = [slot for slot in slots if slot.model and (paths or not exists(Path(slot.model)))]
    teacher = next((slot for slot in usable if slot.runtime == "torch"), None)
    general = next((slot for slot in usable if slot is not teacher), None)
    return (None if teacher is None else teacher.model), (
        None if general is None else general.model
    )


def tailor_command(
    folder: Path | None,
    labels: tuple[str, ...],
    templates: Sequence[str],
    budget: Mapping[str, float],
    *,
    teacher: str | None = None,
    general: str | None = None,
) -> str:
    """Return ``tinyclip-edge tailor`` for a POSIX shell; raise ConfigError for a bad budget.

    ``budget`` has values for the names in ``BUDGET``. ``teacher`` and ``general`` are MODELs; None
    leaves the command's default.
    """
    images, out = Path(folder or FOLDER), Path("bundles") / "mine"
    request = TailorRequest(
        images,
        labels,
        teacher or "",
        out,
        max_mb=budget["max_mb"],
        max_ms=budget["max_ms"],
        minutes=budget["minutes"],
    )
    check_numbers(request)
    words = ["tinyclip-edge", "tailor", "--images", str(images), "--labels", LABELS_FILE]
    if tuple(templates) != DEFAULTS["templates"]:
        words += [word for template in templates for word in ("--template", template)]
    words += ["--teacher", teacher] if teacher else []
    words += ["--general", general] if general else []
    for name, value in budget.items():
        words += [f"--{name.replace('_', '-')}", f"{value:.12g}"]
    return shlex.join([*words, "--out", str(out)])
