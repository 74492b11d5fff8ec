"""Export a CLIP as a bundle folder, which appears only when every gate has passed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import BundleError, MissingExtraError
from tinyclip_export.extras import NO_EXTRAS, Extras, write_extras
from tinyclip_export.layout import ANY_INPUT, TOWER_IO, check_precisions
from tinyclip_export.pairs import Pairs, TowerFiles, answers, check_pairs
from tinyclip_export.quantize import PORTABLE, Int8Recipe, quantize_tower
from tinyclip_export.replay import replay_apart
from tinyclip_export.report import ExportReport
from tinyclip_export.verify import (
    REPLAY_COSINE,
    Expected,
    Ladder,
    ReloadError,
    climb_answers,
    climb_structure,
)

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
    extras: Extras = NO_EXTRAS,
) -> ExportReport:
    """Write `clip` as a verified bundle to `out`.

    `pairs` are (images, texts), the i-th image with the i-th text; int8 may lose `max_drop` points
    of recall@1 on them beyond their standard error. Raises LadderError (exit code 3) and leaves
    `out` as it was when a gate fails; BundleError when `out` is taken (`force` replaces a bundle)
    or cannot be written.
    """
    wanted = check_precisions(precisions)
    check_pairs(pairs)
    out = Path(out)
    _require_extra()
    try:
        check_free(out, force=force)
        with _aside(out.resolve()) as aside:
            export = _Export(clip, aside, wanted, name or clip.name)
            export.extras = extras
            report = export.run(pairs, max_drop)
            aside.chmod(0o755)
            _install(aside, out.resolve())
    except OSError as error:
        cause = error.strerror or " ".join(str(error).split())
        raise BundleError(f"cannot write bundle {out}: {cause}") from error
    return replace(report, folder=out)


def check_free(out: Path, *, force: bool) -> None:
    """Raise BundleError unless `out` is absent, empty, or a bundle that `force` may replace."""
    for place in (out.parent, out):
        if place.exists() and not place.is_dir():
            raise BundleError(f"cannot write bundle {out}: {place} is a file; give a folder")
    if not out.exists():
        return
    if not any(out.iterdir()):
        return
    if not (out / "manifest.json").is_file():
        raise BundleError(f"{out} holds other files; give a new or an empty folder")
    if not force:
        raise BundleError(f"{out} already holds a bundle; replace it with --force")


class _Export:
    """One export under way in a folder of its own."""

    def __init__(
        self, clip: LoadedClip, folder: Path, precisions: tuple[str, ...], name: str
    ) -> None:
        self.clip, self.folder, self.precisions, self.name = clip, folder, precisions, name
        self.recipe: Int8Recipe = PORTABLE
        self.seconds: dict[str, float] = {}
        self.ladder = Ladder()
        self.extras = NO_EXTRAS
        self.form = ANY_INPUT
        self.plain: Mapping[str, Any] = {}  # how to read another tokenizer than CLIP's
        self.made: dict[str, Any] = {}

    def run(self, pairs: Pairs, max_drop: float) -> ExportReport:
        """Write all files, climb the ladder, return the report; raises LadderError."""
        with self._timed("export"):
            eot = self._write_models().end
        with self._timed("quantize"):
            self._quantize()
        files = [self._tower_files(precision) for precision in self.precisions]
        with self._timed("verify"):
            recall = self._verify(files, pairs, max_drop, eot)
            golden = self._golden(files, eot)
        with self._timed("extras"):
            saturates = self.recipe.saturates
            precise = {name: name.startswith("int8") and saturates for name in self.precisions}
            self.made = write_extras(self.clip, self.folder, precise, self.extras)
        with self._timed("reload"):
            report = self._report(len(pairs[1]), recall)
            self._finish(report, eot, golden)
            self._reload()
        self._finish(report, eot, golden)
        report.seconds = {stage: round(value, 2) for stage, value in self.seconds.items()}
        return report

    def _write_models(self) -> SpecialTokens:
        from tinyclip_edge.models.hf_config import write_preprocessor_config
        from tinyclip_edge.models.tokenizer_files import write_tokenizer
        from tinyclip_export import graph, hub_layout
        from tinyclip_export.encoders import image_tower, input_form, text_tower

        image, text = image_tower(self.clip.model), text_tower(self.clip.model)
        self.form = input_form(self.clip, text, self.extras.static_batch)
        special = write_tokenizer(self.clip, self.folder)
        self.plain = special.plain
        write_preprocessor_config(self.clip, self.folder)
        hub_layout.write_model_config(self.clip, self.folder, (image, text), special)
        (self.folder / "onnx").mkdir()
        size, form = self.clip.image_size, self.form
        graph.export_image_tower(image, self._path("image"), image_size=size, form=form)
        graph.export_text_tower(text, self._path("text"), form=form)
        return special

    def _quantize(self) -> None:
        if "int8" in self.precisions:
            for tower in TOWER_IO:
                source, target = self._path(tower), self._path(tower, "int8")
                quantize_tower(source, target, self.recipe, text=tower == "text")
        if "fp32" not in self.precisions:
            for tower in TOWER_IO:
                self._path(tower).unlink()

    def _verify(
        self, files: Sequence[TowerFiles], pairs: Pairs, max_drop: float, eot: int
    ) -> float:
        """Climb all rungs but the last; returns PyTorch's recall@1 in percent."""
        from tinyclip_export.figures import text_to_image

        clip = self.clip
        expected = Expected(clip.image_size, clip.embedding_dim, clip.context_length, self.form)
        for tower_files in files:
            climb_structure(self.ladder, tower_files, expected)
        # A tower that does not load or run has no answers to compare.
        self.ladder.finish()
        reference, found = answers(clip, files, pairs, eot=eot)
        for precision in self.precisions:
            climb_answers(self.ladder, precision, reference, found[precision], max_drop=max_drop)
        return text_to_image(reference.image, reference.text).recall(1)

    def _golden(self, files: Sequence[TowerFiles], eot: int) -> dict[str, Any]:
        from tinyclip_export.golden import golden_vectors

        return golden_vectors(self.clip, files, eot=eot)

    def _reload(self) -> None:
        for precision in self.precisions:
            answer = replay_apart(self.folder, precision)

            def rung(answer: dict[str, Any] = answer, precision: str = precision) -> None:
                if "error" in answer:
                    raise ReloadError(f"{precision} reload: {answer['error']}")
                if not answer["cosine"] >= REPLAY_COSINE:
                    raise ReloadError(
                        f"{precision} reload: golden cosine {answer['cosine']:.5f} in a fresh "
                        f"process is below {REPLAY_COSINE}"
                    )

            self.ladder.attempt(precision, "reload", rung)
            self.ladder.note(precision, reload_cosine=answer.get("cosine"))
        self.ladder.finish()

    def _report(self, pairs: int, recall: float) -> ExportReport:
        towers = {
            tower: {precision: io.path(precision) for precision in self.precisions}
            for tower, io in TOWER_IO.items()
        }
        verification = {
            "pairs": pairs,
            "batch": self.form.batch or 1,
            "padding": self.form.padding,
            "reference_recall@1": round(recall, 3),
            "precisions": self.ladder.figures,
        }
        return ExportReport(self.folder, self.name, self.precisions, towers, verification)

    def _finish(self, report: ExportReport, eot: int, golden: dict[str, Any]) -> None:
        """Write model card and manifest from what is known so far."""
        from tinyclip_edge.runtime.bundle import list_files
        from tinyclip_export.hub_layout import write_model_card
        from tinyclip_export.manifest import build_manifest

        report.files = {name: entry["bytes"] for name, entry in list_files(self.folder).items()}
        write_model_card(self.folder, report, self.clip.context_length)
        manifest = build_manifest(self.clip, report, recipe=self.recipe, eot=eot, golden=golden)
        manifest = replace(
            manifest, extras=self.made, inputs=self.form.as_dict(), tokenizer=self.plain
        )
        manifest.write(self.folder)
        report.files = {name: entry["bytes"] for name, entry in manifest.files.items()}

    def _tower_files(self, precision: str) -> TowerFiles:
        from tinyclip_edge.runtime.cpu import int8_saturates

        # As the runtime decides it from the manifest's recipe.
        precise = precision == "int8" and self.recipe.saturates and int8_saturates()
        paths = self._path("image", precision), self._path("text", precision)
        return TowerFiles(precision, *paths, precise_int8=precise, form=self.form)

    def _path(self, tower: str, precision: str = "fp32") -> Path:
        return self.folder / TOWER_IO[tower].path(precision)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - started


@contextmanager
def _aside(place: Path) -> Iterator[Path]:
    """Make a folder beside `place`, so that the last step is a rename on the same disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _install(aside: Path, out: Path) -> None:
    """Rename the finished folder to `out`; what stood there goes only once the new one stands."""
    old = aside.with_name(f"{aside.name}-old")
    if out.exists():
        out.rename(old)
    aside.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _require_extra() -> None:
    for module in ("onnx", "onnxscript", "optimum"):
        if find_spec(module) is None:
            raise MissingExtraError(f"export needs {module}: pip install 'tinyclip-edge[export]'")
