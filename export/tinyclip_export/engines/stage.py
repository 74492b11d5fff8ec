"""Write the towers for another engine, run them there, and apply our gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tinyclip_edge.engines import ENGINES, engine_file
from tinyclip_edge.errors import ModelError, TinyClipError, first_line
from tinyclip_edge.models.quiet import quiet
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.engines.registry import writer_of
from tinyclip_export.engines.towers import EngineTowers, engine_towers
from tinyclip_export.engines.writer import EngineTower
from tinyclip_export.export_job import ExportJob, FloatTowers
from tinyclip_export.layout import TOWER_IO, InputForm
from tinyclip_export.verification.embeddings import TowerFiles, pair_embeddings
from tinyclip_export.verification.failures import ShapesError
from tinyclip_export.verification.gates import (
    VerificationReport,
    check_embeddings,
    check_latencies,
    check_reload,
    check_unit_norm,
)
from tinyclip_export.verification.golden import golden_vectors
from tinyclip_export.verification.reload import replay_in_child

if TYPE_CHECKING:
    from torch import Tensor

Paths = dict[str, dict[str, Path]]  # precision -> tower -> file


def write_engine(job: ExportJob, towers: FloatTowers, report: VerificationReport) -> dict[str, Any]:
    """Write and verify the files of the preset's engine; return the manifest's entry.

    It is empty without an engine. `report` gets failures and warnings; the figures are in the
    entry. Raises ModelError for a tower that the engine's converter rejects, GatesFailedError
    for a file that does not load or run.
    """
    request = job.settings.preset.engine
    if request.name is None:
        return {}
    name, form = request.name, _form(request.name, towers.form)
    job.settings.notify(f"writing files for {name}: {', '.join(request.precisions)}")
    paths: Paths = {
        precision: {
            tower: job.folder / engine_file(name, io.stem, precision)
            for tower, io in TOWER_IO.items()
        }
        for precision in request.precisions
    }
    _write(job, towers, name, form, paths)
    context = job.clip.context_length
    files = {
        precision: engine_towers(name, precision, each, form=form, context=context)
        for precision, each in paths.items()
    }
    figures = _verify(job, towers, files, report)
    golden = golden_vectors(job.clip, list(files.values()), eot=towers.special.end)["embeddings"]
    return {
        "name": name,
        "version": writer_of(name).version(),
        "files": {
            precision: {t: p.relative_to(job.folder).as_posix() for t, p in each.items()}
            for precision, each in paths.items()
        },
        "inputs": {**form.as_dict(), "ids": "int32" if name == "litert" else form.ids},
        "verification": figures,
        "golden": {precision: golden[each.precision] for precision, each in files.items()},
    }


def check_engine_reloads(
    job: ExportJob, entry: Mapping[str, Any], report: VerificationReport
) -> None:
    """Replay the golden vectors of each engine file in a fresh process."""
    for precision, figures in entry.get("verification", {}).items():
        result = replay_in_child(job.folder, precision, program="tinyclip_export.engines.replay")
        check = partial(check_reload, f"{entry['name']} {precision}", result)
        figures["checks"]["reload"] = report.judge(check)
        figures["reload_cosine"] = result.get("cosine")


def _form(name: str, form: InputForm) -> InputForm:
    """Return the form of the engine's inputs; an engine with fixed shapes fixes both axes."""
    return replace(form, batch=form.batch or 1, padded=True) if ENGINES[name].fixed else form


def _write(job: ExportJob, towers: FloatTowers, name: str, form: InputForm, paths: Paths) -> None:
    import torch

    (job.folder / name).mkdir()
    sources = job.paths("fp32")
    for tower, io in TOWER_IO.items():
        request = EngineTower(
            io.input_name,
            io.output_name,
            towers.writer.module(tower),
            sources[tower],
            _example(job, tower, form),
            job.scratch,
            partial(_inputs, towers, tower),
        )
        targets = {precision: each[tower] for precision, each in paths.items()}
        try:
            with quiet(), torch.no_grad():
                writer_of(name).write(request, targets)
        except TinyClipError:
            raise
        # Each converter has exceptions of its own.
        except Exception as error:
            raise ModelError(
                f"target {name}: its converter fails on the {tower} tower: "
                f"{first_line(error)[:200]}; export without --target for ONNX files alone"
            ) from error


def _example(job: ExportJob, tower: str, form: InputForm) -> Tensor:
    import torch

    batch, size = form.batch or 1, job.clip.image_size
    if tower == "image":
        return torch.zeros(batch, 3, size, size)
    return torch.ones(batch, job.clip.context_length, dtype=torch.int64)


def _inputs(towers: FloatTowers, tower: str) -> Iterator[npt.NDArray[Any]]:
    return towers.writer.calibration.batches(tower)


def _verify(
    job: ExportJob,
    towers: FloatTowers,
    files: Mapping[str, EngineTowers],
    report: VerificationReport,
) -> dict[str, Any]:
    """Return the figures of each precision; failures of the gates go to the report."""
    paths = job.paths("fp32")
    ours = TowerFiles("fp32", paths["image"], paths["text"], form=towers.form)
    group: Sequence[TowerFiles] = [ours, *files.values()]
    reference, embeddings = pair_embeddings(job.clip, group, job.pairs, eot=towers.special.end)
    engine = job.settings.preset.engine.name
    own = VerificationReport()  # by plain precision, which selects the gates
    for precision, each in files.items():
        exported = embeddings[each.precision]
        for tower in TOWER_IO:
            check = partial(
                _check_shape, f"{each.precision} {tower}", getattr(exported, tower), reference.image
            )
            own.attempt(precision, f"{tower} shapes", check)
        own.raise_failures()
        check_embeddings(own, precision, reference, exported, max_drop=job.max_drop)
        check_latencies(own, precision, exported.float_ms, gate=False)
    report.add(own, label=str(engine))
    return own.figures


def _check_shape(label: str, features: Features, reference: Features) -> None:
    if features.shape != reference.shape:
        raise ShapesError(f"{label} shapes: {features.shape}, not {reference.shape}")
    check_unit_norm(f"{label} shapes:", features)
