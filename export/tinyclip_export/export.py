"""Export a CLIP as a bundle folder, which appears only when every gate has passed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.aside import written_aside
from tinyclip_edge.errors import BundleError, MissingExtraError
from tinyclip_edge.precisions import check_precisions
from tinyclip_export.bundle.extras import write_extras
from tinyclip_export.bundle.staging import check_free
from tinyclip_export.export_report import ExportReport
from tinyclip_export.layout import ANY_INPUT, TOWER_IO
from tinyclip_export.quantization.calibration import Calibration
from tinyclip_export.quantization.registry import (
    TowerRecipes,
    is_convolutional,
    recipe_dicts,
    recipes_for,
)
from tinyclip_export.quantization.tower_writer import TowerWriter
from tinyclip_export.sensitivity.selection import LayerSelection
from tinyclip_export.settings import DEFAULT, CalibrationPairs, ExportSettings
from tinyclip_export.verification.embeddings import Pairs, TowerFiles, check_pairs, pair_embeddings
from tinyclip_export.verification.gates import (
    ExpectedSizes,
    VerificationReport,
    check_embeddings,
    check_latencies,
    check_reload,
    check_structure,
)
from tinyclip_export.verification.reload import replay_apart

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.models.tokenizer_files import SpecialTokens


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
    points of recall@1 on them beyond their standard error. Raises LadderError (exit code 3) and
    leaves `out` as it was when a gate fails; BundleError when `out` is taken (`force` replaces a
    bundle) or cannot be written.
    """
    wanted = check_precisions(precisions)
    check_pairs(pairs)
    out = Path(out)
    _require_extra()
    try:
        check_free(out, force=force)
        with written_aside(out.resolve()) as folder:
            scratch = folder.with_name("scratch")  # goes with the work folder
            scratch.mkdir()
            export = _Export(clip, folder, wanted, name or clip.name)
            export.settings, export.scratch = settings, scratch
            report = export.run(pairs, max_drop)
    except OSError as error:
        cause = error.strerror or " ".join(str(error).split())
        raise BundleError(f"cannot write bundle {out}: {cause}") from error
    return replace(report, folder=out)


class _Export:
    """One export under way in a folder of its own."""

    scratch: Path  # what is not kept
    forge: TowerWriter

    def __init__(
        self, clip: LoadedClip, folder: Path, precisions: tuple[str, ...], name: str
    ) -> None:
        self.clip, self.folder, self.precisions, self.name = clip, folder, precisions, name
        self.recipes: dict[str, TowerRecipes] = {}
        self.improver: LayerSelection | None = None
        self.calibrated: CalibrationPairs | None = None
        self.seconds: dict[str, float] = {}
        self.ladder = VerificationReport()
        self.settings = DEFAULT
        self.form = ANY_INPUT
        self.plain: Mapping[str, Any] = {}  # how to read another tokenizer than CLIP's
        self.made: dict[str, Any] = {}

    def run(self, pairs: Pairs, max_drop: float) -> ExportReport:
        """Write all files, climb the ladder, return the report; raises LadderError."""
        notes = self._label_notes()
        with self._timed("export"):
            eot = self._write_models(pairs).end
        with self._timed("quantize"):
            self._quantize()
        files = [self._tower_files(precision) for precision in self._written]
        recall = self._verify(files, pairs, max_drop, eot)
        with self._timed("verify"):
            wanted = [each for each in files if each.precision in self.precisions]
            golden = self._golden(wanted, eot)
        self._drop_float()
        with self._timed("extras"):
            precise = {name: self._saturates(name) for name in self.precisions}
            self.made = write_extras(self.clip, self.folder, precise, self.settings.extras)
        with self._timed("reload"):
            report = self._report(len(pairs[1]), recall, max_drop)
            self._finish(report, eot, golden)
            self._reload()
        self._finish(report, eot, golden)
        report.seconds = {stage: round(value, 2) for stage, value in self.seconds.items()}
        report.warnings = [*notes, *(str(warning) for warning in self.ladder.warnings)]
        return report

    def _label_notes(self) -> tuple[str, ...]:
        """Say what is cut of the classifier's prompts; raises DataError for labels that collide."""
        extras = self.settings.extras
        if not extras.labels:
            return ()
        from tinyclip_edge.models import TorchEmbedder
        from tinyclip_edge.runtime.prompts import check_prompts

        return check_prompts(TorchEmbedder(self.clip), extras.labels, extras.templates)

    @property
    def _written(self) -> tuple[str, ...]:
        """Precisions on disk until all is verified: fp32 is what the others are timed against."""
        return ("fp32", *(name for name in self.precisions if name != "fp32"))

    def _write_models(self, pairs: Pairs) -> SpecialTokens:
        from tinyclip_edge.models.hf_config import write_preprocessor_config
        from tinyclip_edge.models.tokenizer_files import write_tokenizer
        from tinyclip_export.bundle import hub_files
        from tinyclip_export.onnx_passes import exporter
        from tinyclip_export.towers.factory import image_tower, input_form, text_tower

        image = image_tower(self.clip.model)
        text = text_tower(self.clip.model, self.clip.tokenizer(["a"])[0])
        self.form = input_form(self.clip, text, self.settings.extras.static_batch)
        special = write_tokenizer(self.clip, self.folder)
        self.plain = special.plain
        write_preprocessor_config(self.clip, self.folder)
        hub_files.write_model_config(self.clip, self.folder, (image, text), special)
        (self.folder / "onnx").mkdir()
        size, form = self.clip.image_size, self.form
        exporter.export_image_tower(image, self._path("image"), image_size=size, form=form)
        exporter.export_text_tower(text, self._path("text"), form=form)
        self.forge = TowerWriter(
            {"image": image, "text": text},
            {tower: self._path(tower) for tower in TOWER_IO},
            self.scratch,
            image_size=size,
            form=form,
            calibration=lambda: self._calibration(pairs, special.end),
        )
        return special

    def _calibration(self, pairs: Pairs, eot: int) -> Calibration:
        supply = self.settings.calibration
        given = supply() if supply else CalibrationPairs("verification", *pairs, apart=False)
        self.settings.tell(f"calibrating on {len(given.texts)} pairs of {given.name}")
        self.calibrated, found = given, (given.images, given.texts)
        return Calibration(self.clip, found, self.scratch, eot=eot, form=self.form)

    def _quantize(self) -> None:
        convolutional = is_convolutional(self._path("image"))
        for precision in self._written[1:]:
            recipes = recipes_for(precision, self.settings.preset, convolutional=convolutional)
            self.recipes[precision] = recipes
            self.forge.write_both(recipes, self._paths(precision))

    def _drop_float(self) -> None:
        if "fp32" not in self.precisions:
            self.ladder.figures.pop("fp32")
            for path in self._paths("fp32").values():
                path.unlink()

    def _verify(
        self, files: Sequence[TowerFiles], pairs: Pairs, max_drop: float, eot: int
    ) -> float:
        """Climb all rungs but the last; returns PyTorch's recall@1 in percent."""
        from tinyclip_export.verification.metrics import text_to_image

        clip = self.clip
        with self._timed("verify"):
            self._climb_structure(files)
            reference, found = pair_embeddings(clip, files, pairs, eot=eot)
        with self._timed("search"):
            self.improver = LayerSelection(
                clip, self.forge, self.recipes, self.settings, max_drop, eot
            )
            improved = self.improver.run(files, pairs, reference, found)
            found.update(improved)
            self._climb_structure([each for each in files if each.precision in improved])
        for precision in self._written:
            check_embeddings(self.ladder, precision, reference, found[precision], max_drop=max_drop)
        gate = self.settings.require_faster
        for precision in self._written[1:]:
            check_latencies(self.ladder, precision, found[precision].float_ms, gate=gate)
        return text_to_image(reference.image, reference.text).recall(1)

    def _climb_structure(self, files: Sequence[TowerFiles]) -> None:
        clip = self.clip
        expected = ExpectedSizes(
            clip.image_size, clip.embedding_dim, clip.context_length, self.form
        )
        for tower_files in files:
            check_structure(self.ladder, tower_files, expected)
        # A tower that does not load or run has no answers to compare.
        self.ladder.finish()

    def _golden(self, files: Sequence[TowerFiles], eot: int) -> dict[str, Any]:
        from tinyclip_export.verification.golden import golden_vectors

        return golden_vectors(self.clip, files, eot=eot)

    def _reload(self) -> None:
        for precision in self.precisions:
            answer = replay_apart(self.folder, precision)
            self.ladder.attempt(precision, "reload", partial(check_reload, precision, answer))
            self.ladder.note(precision, reload_cosine=answer.get("cosine"))
        self.ladder.finish()

    def _report(self, pairs: int, recall: float, max_drop: float) -> ExportReport:
        towers = {
            tower: {precision: io.path(precision) for precision in self.precisions}
            for tower, io in TOWER_IO.items()
        }
        verification: dict[str, Any] = {
            "pairs": pairs,
            "batch": self.form.batch or 1,
            "padding": self.form.padding,
            "reference_recall@1": round(recall, 3),
            "max_drop": max_drop,  # points; the gate allows one standard error on top
            "max_drop_allows": "recall@1_drop - recall@1_stderr <= max_drop",
            "precisions": self.ladder.figures,
        }
        if self.calibrated is not None:
            given, count = self.calibrated, len(self.calibrated.texts)
            verification["calibration"] = {
                "data": given.name,
                "pairs": count,
                "apart": given.apart,
            }
        verification.update(self._searches())
        return ExportReport(self.folder, self.name, self.precisions, towers, verification)

    def _searches(self) -> dict[str, Any]:
        """Give the first precision's search under the key that reports read, with its picture."""
        from tinyclip_export.sensitivity.pareto import PICTURE, plot_search

        found = self.improver.found if self.improver else {}
        if not found:
            return {}
        first, *others = found
        plot_search(found[first], self.folder / PICTURE)
        more = {"more_sensitivity": [found[precision] for precision in others]} if others else {}
        return {"sensitivity": found[first], **more}

    def _finish(self, report: ExportReport, eot: int, golden: dict[str, Any]) -> None:
        """Write model card and manifest from what is known so far."""
        from tinyclip_edge.runtime.bundle import list_files
        from tinyclip_export.bundle.hub_files import write_model_card
        from tinyclip_export.bundle.manifest import build_manifest

        report.files = {name: entry["bytes"] for name, entry in list_files(self.folder).items()}
        write_model_card(self.folder, report, self.clip.context_length)
        choices = self.improver.choices if self.improver else {}
        recipe = recipe_dicts(self.recipes, self.precisions, choices)
        manifest = build_manifest(self.clip, report, recipe=recipe, eot=eot, golden=golden)
        manifest = replace(
            manifest, extras=self.made, inputs=self.form.as_dict(), tokenizer=self.plain
        )
        manifest.write(self.folder)
        report.files = {name: entry["bytes"] for name, entry in manifest.files.items()}

    def _tower_files(self, precision: str) -> TowerFiles:
        from tinyclip_edge.runtime.cpu import int8_saturates

        precise = self._saturates(precision) and int8_saturates()
        paths = self._paths(precision)
        return TowerFiles(precision, **paths, precise_int8=precise, form=self.form)

    def _saturates(self, precision: str) -> bool:
        # As the runtime reads it from the manifest's recipe.
        return precision in self.recipes and self.recipes[precision].saturates

    def _paths(self, precision: str) -> dict[str, Path]:
        return {tower: self._path(tower, precision) for tower in TOWER_IO}

    def _path(self, tower: str, precision: str = "fp32") -> Path:
        return self.folder / TOWER_IO[tower].path(precision)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started


def _require_extra() -> None:
    for module in ("onnx", "onnxscript"):
        if find_spec(module) is None:
            raise MissingExtraError(f"export needs {module}: pip install 'tinyclip-edge[export]'")
