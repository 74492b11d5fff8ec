"""The bundle at the end of a tailoring: exported, with a threshold for unknown pictures."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from tinyclip_edge.errors import DataError
from tinyclip_edge.paths import is_file

if TYPE_CHECKING:
    from tinyclip_edge.tailoring.preparation import Prepared
    from tinyclip_edge.tailoring.report import ExportedFiles
    from tinyclip_edge.tailoring.state import Tailoring

Say = Callable[[str], None]


def export_winner(tailoring: Tailoring, prepared: Prepared, winner: str, say: Say) -> ExportedFiles:
    """Write the winner's bundle, verified on the held-out pictures.

    A bundle that an earlier call has finished is reused; one that it may have begun is replaced.
    """
    from tinyclip_edge.api.exporting import VerificationRequest, export
    from tinyclip_edge.tailoring.measure import milliseconds
    from tinyclip_edge.tailoring.report import ExportedFiles
    from tinyclip_edge.tailoring.request import CLASSIFIER
    from tinyclip_edge.tailoring.work import EXPORT
    from tinyclip_export.bundle.label_classifier import classifier_path
    from tinyclip_export.settings import Extras

    request, work = tailoring.request, tailoring.work
    begun = work.read(EXPORT)
    if begun is not None and begun.get("files") and is_file(request.out / "manifest.json"):
        return ExportedFiles(begun["files"], begun["ms"])
    work.write(EXPORT, {"out": str(request.out)})
    exported = export(
        work.runs / winner,
        request.out,
        verification=VerificationRequest(data=str(work.held_out)),
        extras=Extras(labels=request.labels, templates=request.templates),
        trim_vocab=work.lines("texts") if tailoring.candidates.trims else None,
        force=begun is not None,
        callback=say,
        progress=False,
    )
    _calibrate(tailoring, prepared, say)
    names: tuple[str, ...] = tuple(paths["int8"] for paths in exported.towers.values())
    if request.form == CLASSIFIER:
        names = (classifier_path("int8"),)
    ms = milliseconds(request.out / names[0], tailoring.shape(winner).image_size)
    shipped = ExportedFiles({name: exported.files[name] for name in names}, ms)
    work.write(EXPORT, {"out": str(request.out), "files": shipped.files, "ms": ms})
    return shipped


def _calibrate(tailoring: Tailoring, prepared: Prepared, say: Say) -> None:
    """Write the threshold below which a picture is unknown, if there are enough pictures."""
    from tinyclip_edge.runtime.label_calibration import HeldOut, calibrate_bundle

    request, targets = tailoring.request, prepared.targets
    if targets is None:
        targets, by = prepared.probabilities.argmax(axis=1).tolist(), tailoring.teacher.name
    else:
        by = "folders"
    known = [place for place, target in enumerate(targets) if target >= 0]
    held_out = HeldOut(
        [prepared.held_out[place] for place in known],
        [targets[place] for place in known],
        request.labels,
        request.templates,
        by,
    )
    try:
        calibrate_bundle(request.out, held_out, notify=say)
    except DataError as error:
        say(f"no threshold for unknown pictures: {error}")


def commands(tailoring: Tailoring, winner: str) -> tuple[str, ...]:
    """Return two commands that train and then export the winner by hand.

    They write beside the tailoring's own run and bundle, which already exist.
    """
    work, run = tailoring.work, f"runs/{winner}"
    distil = ("distill", work.configurations / f"{winner}.yaml", "--out", run)
    export = (
        *("export", run, "--int8", "--labels", work.lines("labels")),
        *("--templates", work.lines("templates")),
        *("--data", work.held_out),
        *(("--trim-vocab", work.lines("texts")) if tailoring.candidates.trims else ()),
        *("--out", f"bundles/{winner}"),
    )
    return tuple(shlex.join(["tinyclip-edge", *map(str, words)]) for words in (distil, export))
