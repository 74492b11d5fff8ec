"""The stages of an export, in the order in which ``export_bundle`` runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.runtime.label_calibration import HeldOut, calibrate_bundle
from tinyclip_export.bundle.familiarity import measure_familiarity
from tinyclip_export.engines.stage import check_engine_reloads
from tinyclip_export.export_job import ExportJob, FloatTowers, StageTimer
from tinyclip_export.float_choice import with_float_images
from tinyclip_export.onnx_passes.graph_utils import is_convolutional
from tinyclip_export.quantization.calibration import Calibration
from tinyclip_export.quantization.float_form import is_mainly_convolutions
from tinyclip_export.quantization.registry import TowerRecipes, recipes_for
from tinyclip_export.quantization.tower_writer import TowerWriter
from tinyclip_export.sensitivity.selection import LayerSelection, select_layers
from tinyclip_export.settings import CalibrationPairs
from tinyclip_export.verification.embeddings import TowerFiles, pair_embeddings
from tinyclip_export.verification.gates import (
    ExpectedSizes,
    VerificationReport,
    check_embeddings,
    check_latencies,
    check_reload,
    check_structure,
)
from tinyclip_export.verification.reload import replay_in_child

MOST_OF_FLOAT = 0.6  # of the fp32 file; 8-bit weights alone have a little more than 0.25


@dataclass(frozen=True, slots=True)
class Verified:
    """PyTorch's recall on the verification pairs, and the layers and towers that stay float."""

    reference_recall: float  # at 1, text to image, per cent
    selection: LayerSelection
    recipes: Mapping[str, TowerRecipes]  # by precision, as the files were written
    familiarity: Mapping[str, Any]  # for the manifest; empty without training pictures


def write_float_towers(job: ExportJob) -> FloatTowers:
    """Write tokenizer, configurations and both fp32 towers. Raises ModelError."""
    from tinyclip_edge.models.hf_config import write_preprocessor_config
    from tinyclip_edge.models.tokenizer_files import write_tokenizer
    from tinyclip_export.bundle import hub_files
    from tinyclip_export.onnx_passes import exporter
    from tinyclip_export.towers.factory import image_tower, input_form, text_tower

    clip, folder = job.clip, job.folder
    plain = job.settings.preset.operators == "plain"
    image = image_tower(clip.model, plain=plain)
    text = text_tower(clip.model, clip.tokenizer(["a"])[0], plain=plain)
    ids = job.settings.preset.inputs.ids
    form = input_form(clip, text, job.static_batch, ids=ids, plain=plain)
    special = write_tokenizer(clip, folder)
    write_preprocessor_config(clip, folder)
    hub_files.write_model_config(clip, folder, (image, text), special)
    (folder / "onnx").mkdir()
    paths = job.paths("fp32")
    exporter.export_image_tower(image, paths["image"], image_size=clip.image_size, form=form)
    exporter.export_text_tower(text, paths["text"], form=form)
    supply = job.settings.calibration or (
        lambda: CalibrationPairs("verification", *job.pairs, disjoint=False)
    )
    calibration_pairs = cache(supply)

    def calibration() -> Calibration:
        pairs = calibration_pairs()
        job.settings.notify(f"calibrating on {len(pairs.texts):,} pairs of {pairs.name}")
        inputs = (pairs.images, pairs.texts)
        return Calibration(clip, inputs, job.scratch, eot=special.end, form=form)

    writer = TowerWriter(
        {"image": image, "text": text},
        paths,
        job.scratch,
        image_size=clip.image_size,
        form=form,
        calibration=calibration,
    )
    return FloatTowers(writer, form, special, calibration_pairs)


def quantize(job: ExportJob, towers: FloatTowers) -> dict[str, TowerRecipes]:
    """Write the towers of every other precision; return their recipes."""
    source = job.paths("fp32")["image"]
    convolutional = is_convolutional(source)
    static = is_mainly_convolutions(source)
    recipes = {}
    for precision in job.written_precisions[1:]:
        recipes[precision] = recipes_for(precision, job.settings.preset, convolutional=static)
        towers.writer.write_both(recipes[precision], job.paths(precision))
        if convolutional and PRECISIONS[precision].recipe == "weight only":
            _check_size(job, precision)
    return recipes


def _check_size(job: ExportJob, precision: str) -> None:
    """Raise ModelError if most of an image tower's weights stay float: its large convolutions."""
    sizes = [job.paths(name)["image"].stat().st_size for name in (precision, "fp32")]
    share = sizes[0] / sizes[1]
    if share > MOST_OF_FLOAT:
        raise ModelError(
            f"{precision}: the image tower keeps {share:.0%} of its fp32 bytes, because its "
            "convolutions larger than 1x1 stay float in this precision; use --int8"
        )


def tower_files(
    job: ExportJob, towers: FloatTowers, recipes: Mapping[str, TowerRecipes]
) -> list[TowerFiles]:
    """Return the files of each written precision, fp32 first."""
    from tinyclip_edge.runtime.cpu import int8_saturates

    return [
        TowerFiles(
            precision,
            **job.paths(precision),
            precise_int8=needs_precise_int8(recipes, precision) and int8_saturates(),
            form=towers.form,
        )
        for precision in job.written_precisions
    ]


def needs_precise_int8(recipes: Mapping[str, TowerRecipes], precision: str) -> bool:
    """Whether sums may overflow on x86 without VNNI; the runtime reads it from the manifest."""
    return precision in recipes and recipes[precision].saturates


def verify(
    job: ExportJob,
    towers: FloatTowers,
    recipes: Mapping[str, TowerRecipes],
    files: Sequence[TowerFiles],
    report: VerificationReport,
    timer: StageTimer,
) -> Verified:
    """Check structure, values, ranking and latency; search layers where the settings ask for it.

    Figures and failures are added to `report`. Raises GatesFailedError for files that cannot run.
    """
    from tinyclip_export.verification.metrics import text_to_image

    eot = towers.special.end
    with timer.stage("verify"):
        _check_structures(job, towers, files, report)
        reference, embeddings = pair_embeddings(job.clip, files, job.pairs, eot=eot)
    with timer.stage("search"):
        selection = select_layers(job, towers, recipes, files, reference, embeddings)
        embeddings.update(selection.embeddings)
        rewritten = [each for each in files if each.precision in selection.embeddings]
        _check_structures(job, towers, rewritten, report)
    recipes = with_float_images(job, towers, recipes, reference, embeddings)
    for precision, exported in embeddings.items():
        check_embeddings(report, precision, reference, exported, max_drop=job.max_drop)
    gate = job.settings.require_faster
    for precision in job.written_precisions[1:]:
        check_latencies(report, precision, embeddings[precision].float_ms, gate=gate)
    recall = text_to_image(reference.image, reference.text).recall(1)
    with timer.stage("verify"):
        familiarity = measure_familiarity(job, embeddings)
    return Verified(recall, selection, recipes, familiarity)


def _check_structures(
    job: ExportJob,
    towers: FloatTowers,
    files: Sequence[TowerFiles],
    report: VerificationReport,
) -> None:
    clip = job.clip
    expected = ExpectedSizes(clip.image_size, clip.embedding_dim, clip.context_length, towers.form)
    for each in files:
        check_structure(report, each, expected)
    # A tower that does not load or run has no embeddings to compare.
    report.raise_failures()


def remove_unrequested_float(job: ExportJob, report: VerificationReport) -> None:
    """Delete the fp32 towers, and their figures, if fp32 is not one of the precisions."""
    if "fp32" not in job.precisions:
        report.figures.pop("fp32")
        for path in job.paths("fp32").values():
            path.unlink()


def calibrate(job: ExportJob, held_out: HeldOut) -> Mapping[str, Any]:
    """Calibrate temperature and threshold of "unknown"; return the manifest's ``confidence``.

    Raises DataError if hardly any of the images is classified correctly.
    """
    confidence = calibrate_bundle(job.folder, held_out, notify=job.settings.notify)
    for precision, entry in confidence["precisions"].items():
        job.settings.notify(
            f"{precision}: below {entry['threshold']:.4f} a picture is unknown; "
            f"{entry['right_answered']:.1%} of the right labels pass and "
            f"{entry['wrong_answered']:.1%} of the wrong ones; calibration error "
            f"{entry['ece_before']:.1%}, or {entry['ece_after']:.1%} at temperature "
            f"{entry['temperature']:.3g}"
        )
    return confidence


def check_reloads(job: ExportJob, report: VerificationReport, engine: Mapping[str, Any]) -> None:
    """Open the bundle in fresh processes; raise GatesFailedError if any check has failed.

    `engine` is the manifest's entry on the files of another engine, if there are any.
    """
    for precision in job.precisions:
        result = replay_in_child(job.folder, precision)
        report.attempt(precision, "reload", partial(check_reload, precision, result))
        report.note(precision, reload_cosine=result.get("cosine"))
    check_engine_reloads(job, engine, report)
    report.raise_failures()


def verification_figures(
    job: ExportJob, towers: FloatTowers, verified: Verified, report: VerificationReport
) -> dict[str, Any]:
    """Return the manifest's ``verification``; plots the searches, if any."""
    figures: dict[str, Any] = {
        "pairs": len(job.pairs[1]),
        "batch": towers.form.batch or 1,
        "padding": towers.form.padding,
        "reference_recall@1": round(verified.reference_recall, 3),
        "max_drop": job.max_drop,  # points; the gate allows one standard error on top
        "max_drop_allows": "recall@1_drop - recall@1_stderr <= max_drop",
        "precisions": report.figures,
    }
    if towers.writer.has_calibration:
        pairs = towers.calibration_pairs()
        figures["calibration"] = {
            "data": pairs.name,
            "pairs": len(pairs.texts),
            "apart": pairs.disjoint,
        }
    return {**figures, **_search_figures(job, verified.selection)}


def _search_figures(job: ExportJob, selection: LayerSelection) -> dict[str, Any]:
    """Return the first search under the key that reports read, and the others."""
    from tinyclip_export.sensitivity.pareto import PICTURE, plot_search

    if not selection.searches:
        return {}
    first, *others = selection.searches.values()
    plot_search(first, job.folder / PICTURE)
    return {"sensitivity": first, **({"more_sensitivity": others} if others else {})}
