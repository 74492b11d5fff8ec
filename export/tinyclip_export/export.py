"""Export a CLIP as a bundle folder, which appears only when every gate has passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.aside import written_aside
from tinyclip_edge.errors import BundleError, MissingExtraError
from tinyclip_edge.precisions import check_precisions
from tinyclip_export.bundle.extras import write_extras
from tinyclip_export.bundle.staging import check_destination
from tinyclip_export.engines.registry import require_engine
from tinyclip_export.engines.stage import write_engine
from tinyclip_export.export_job import ExportJob, StageTimer
from tinyclip_export.export_report import ExportReport
from tinyclip_export.float_choice import float_notes
from tinyclip_export.quantization.registry import recipe_dicts
from tinyclip_export.settings import DEFAULT, ExportSettings
from tinyclip_export.stages import (
    calibrate,
    check_reloads,
    needs_precise_int8,
    quantize,
    remove_unrequested_float,
    tower_files,
    verification_figures,
    verify,
    write_float_towers,
)
from tinyclip_export.verification.embeddings import Pairs, check_pairs
from tinyclip_export.verification.gates import VerificationReport

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.runtime.bundle import Manifest
    from tinyclip_export.export_job import FloatTowers
    from tinyclip_export.quantization.registry import TowerRecipes
    from tinyclip_export.verification.embeddings import TowerFiles


def export_bundle(
    clip: LoadedClip,
    out: str | Path,
    *,
    precisions: Sequence[str] = ("fp32", "int8"),
    pairs: Pairs,
    max_drop: float = 0.5,
    name: str | None = None,
    force: bool = False,
    settings: ExportSettings = DEFAULT,
) -> ExportReport:
    """Write `clip` as a verified bundle to `out`.

    `pairs` are (images, texts), the i-th image with the i-th text; a precision may lose `max_drop`
    points of recall@1 on them beyond the standard error. Raises GatesFailedError (exit code 3) and
    leaves `out` unchanged when a gate fails; BundleError when `out` is in use (`force` replaces a
    bundle) or cannot be written.
    """
    checked = check_precisions(precisions)
    check_pairs(pairs)
    out = Path(out)
    _require_extra()
    require_engine(settings.preset.engine.name)
    try:
        check_destination(out, force=force)
        with written_aside(out.resolve()) as folder:
            scratch = folder.with_name("scratch")  # removed together with the work folder
            scratch.mkdir()
            report = _export(
                ExportJob(
                    clip, folder, scratch, name or clip.name, checked, pairs, max_drop, settings
                )
            )
    except OSError as error:
        cause = error.strerror or " ".join(str(error).split())
        raise BundleError(f"cannot write bundle {out}: {cause}") from error
    return replace(report, folder=out)


def _export(job: ExportJob) -> ExportReport:
    """Write, verify and describe a bundle. Raises GatesFailedError."""
    from tinyclip_export.bundle.converted import convert_for_target
    from tinyclip_export.bundle.hub_files import write_model_card
    from tinyclip_export.bundle.manifest import build_manifest
    from tinyclip_export.bundle.native import write_native
    from tinyclip_export.verification.golden import golden_vectors
    from tinyclip_export.verification.structure import check_target

    timer, checks = StageTimer(), VerificationReport()
    _check_extras(job)
    prompt_notes = _prompt_notes(job)
    with timer.stage("export"):
        towers = write_float_towers(job)
    with timer.stage("quantize"):
        recipes = quantize(job, towers)
    files = tower_files(job, towers, recipes)
    verified = verify(job, towers, recipes, files, checks, timer)
    recipes = dict(verified.recipes)
    with timer.stage("verify"):
        requested = [each for each in files if each.precision in job.precisions]
        golden = golden_vectors(job.clip, requested, eot=towers.special.end)
    with timer.stage("engine"):
        engine = write_engine(job, towers, checks)
    remove_unrequested_float(job, checks)
    with timer.stage("extras"):
        extras = _write_optional_files(job, towers, requested, recipes)
        if engine:
            extras["engine"] = engine
        check_target(job.folder, job.settings.preset.target, job.default_precision, checks)
        if job.settings.extras.native:
            extras["native"] = write_native(job, towers)
        target = convert_for_target(job)
    with timer.stage("reload"):
        verification = verification_figures(job, towers, verified, checks)
        write_model_card(job, verification)
        manifest = build_manifest(
            job,
            towers,
            verification=verification,
            recipe=recipe_dicts(recipes, job.precisions, verified.selection.choices),
            golden=golden,
            extras=extras,
            target=target,
            familiarity=verified.familiarity,
        )
        manifest.write(job.folder)  # the fresh processes need it
    manifest = _calibrated(job, manifest, timer)
    with timer.stage("reload"):
        check_reloads(job, checks, engine)
        verification = {**verification, "precisions": checks.figures}
        replace(manifest, verification=verification).write(job.folder)
    return ExportReport(
        folder=job.folder,
        name=job.name,
        precisions=job.precisions,
        towers=manifest.towers,
        verification=verification,
        engine=engine,
        files={name: entry["bytes"] for name, entry in manifest.files.items()},
        seconds=timer.seconds(),
        warnings=(
            *prompt_notes,
            *float_notes(recipes),
            *(str(warning) for warning in checks.warnings),
        ),
    )


def _write_optional_files(
    job: ExportJob,
    towers: FloatTowers,
    files: Sequence[TowerFiles],
    recipes: Mapping[str, TowerRecipes],
) -> dict[str, Any]:
    """Write classifiers, pixel and string towers and layouts; return the manifest's ``extras``."""
    from tinyclip_export.bundle.layouts import write_layouts
    from tinyclip_export.bundle.string_extras import write_string_extras

    options = job.settings.extras
    precise = {name: needs_precise_int8(recipes, name) for name in job.precisions}
    extras = write_extras(
        job.clip, job.folder, precise, options, pipeline=job.settings.preset.pipeline
    )
    if options.embed_tokenizer:
        extras |= write_string_extras(job, files, towers.special)
    if options.layouts:
        default = next(each for each in files if each.precision == job.default_precision)
        extras["layouts"] = write_layouts(
            job.clip, job.folder, default, options.layouts, end=towers.special.end
        )
    return extras


def _calibrated(job: ExportJob, manifest: Manifest, timer: StageTimer) -> Manifest:
    """Return the manifest with the calibration on held-out images, if there are any."""
    if job.settings.held_out is None:
        return manifest
    with timer.stage("calibrate"):
        return replace(manifest, confidence=calibrate(job, job.settings.held_out))


def _check_extras(job: ExportJob) -> None:
    """Raise ConfigError for optional files that the model or the target does not allow."""
    from tinyclip_export.bundle.converted import check_extras
    from tinyclip_export.bundle.native import check_native
    from tinyclip_export.bundle.string_text_tower import check_tokenizer

    check_extras(job)
    if job.settings.extras.embed_tokenizer:
        check_tokenizer(job.clip, job.static_batch)
    if job.settings.extras.native:
        check_native(job.settings.preset.target)


def _prompt_notes(job: ExportJob) -> tuple[str, ...]:
    """Return notes on cut prompts of the classifier; raise DataError for labels that collide."""
    extras, held_out = job.settings.extras, job.settings.held_out
    labels = extras.labels or (() if held_out is None else held_out.labels)
    if not labels:
        return ()
    from tinyclip_edge.models import TorchEmbedder
    from tinyclip_edge.runtime.prompts import check_prompts

    return check_prompts(TorchEmbedder(job.clip), labels, extras.templates)


def _require_extra() -> None:
    for module in ("onnx", "onnxscript"):
        if find_spec(module) is None:
            raise MissingExtraError(f"export needs {module}: pip install 'tinyclip-edge[export]'")
