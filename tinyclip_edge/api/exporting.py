"""``export``: a model as a verified bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.api.export_check import check_request
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.paths import free_folder
from tinyclip_edge.precisions import PRECISIONS, check_precisions
from tinyclip_edge.targets import AUTO, TARGETS

if TYPE_CHECKING:
    from tinyclip_edge.config.preset import ExportPreset
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.runtime.label_calibration import HeldOut
    from tinyclip_export import ExportReport
    from tinyclip_export.settings import Extras

BUNDLES = Path("bundles")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class VerificationRequest:
    """The pairs for verification and calibration, and the gates; see ``export --help``."""

    data: str = "starter:val"
    limit: int = 1000
    calibration: str | None = None
    max_drop: float = 0.5  # points of recall@1
    search: bool | None = None
    require_faster: bool = False


@dataclass(frozen=True, slots=True)
class QatRequest:
    """Quantization-aware training before the export."""

    steps: int
    data: str | None = None  # training pairs; None: those of the run


def export(  # noqa: PLR0913 - a public call with named options
    model: str | Path | None = None,
    out: str | Path | None = None,
    *,
    precisions: Sequence[str] | None = None,
    target: str | Path | ExportPreset | None = None,
    verification: VerificationRequest | None = None,
    extras: Extras | None = None,
    qat: QatRequest | None = None,
    trim_vocab: str | Path | None = None,
    calibrate_labels: str | Path | None = None,
    force: bool = False,
    callback: Say = lambda text: None,
    progress: bool = True,
) -> ExportReport:
    """Write a model as verified ONNX towers, in a bundle folder.

    ``model``: a run, a model folder or a name; the newest run by default. ``out``: bundles/NAME by
    default; ``force`` replaces a bundle there. ``precisions``: those of ``target`` by default, fp32
    and int8 without one. ``target``: a shipped name, "auto", a YAML file, or an ExportPreset.
    ``extras``: a classifier of labels, towers that take pixels. ``trim_vocab``: file of texts; all
    tokens that they do not need are dropped. ``calibrate_labels``: held-out images in a folder per
    label of ``extras``, to set the threshold below which a picture is unknown. ``callback`` gets
    lines of progress; ``progress`` draws a bar for ``qat``. Options are checked before torch is
    imported. Raises a TinyClipError; if a gate fails, GatesFailedError, and ``out`` is not written.
    """
    from tinyclip_edge.models import newest_run
    from tinyclip_export.engines.registry import require_engine
    from tinyclip_export.settings import NO_EXTRAS, ExportSettings

    request = verification or VerificationRequest()
    preset = preset_of(target) if qat is None else preset_of(target).to_nearest()
    chosen = ("fp32", "int8") if target is None else preset.precisions
    names = check_precisions(chosen if precisions is None else precisions)
    source = str(newest_run() if model is None else model)
    destination = None if out is None else Path(out)
    corpus = None if trim_vocab is None else Path(trim_vocab)
    require_engine(preset.engine.name)
    check_request(source, request, corpus=corpus, out=destination, force=force)
    from tinyclip_edge.api.export_pairs import export_pairs
    from tinyclip_edge.api.training_pictures import training_pictures
    from tinyclip_edge.models import load_clip
    from tinyclip_export import export_bundle

    added = extras or NO_EXTRAS
    held_out = _held_out(calibrate_labels, added, source)
    clip = load_clip(source)
    folder = destination or free_folder(BUNDLES, clip.name.replace("/", "-"))
    # If no precision is calibrated, all pairs are used for the verification.
    calibrated = any(PRECISIONS[each].calibrated for each in (*names, *preset.engine.precisions))
    pairs, supply = export_pairs(request, calibrated=calibrated)
    described = f"{len(pairs.texts):,} pairs of {request.data}"
    callback(f"exporting {source} to {folder}, verified on {described}")
    if preset.target is not None:
        callback(f"target {preset.target}: {TARGETS[preset.target].description}")
    for note in pairs.notes:
        callback(note)
    settings = ExportSettings(
        preset,
        search=request.search,
        require_faster=request.require_faster,
        calibration=supply,
        training=training_pictures(source, request.data),
        notify=callback,
        held_out=held_out,
    )
    training = None if qat is None else _Training(qat, source, request.data, folder, progress)
    with _finetuned(clip, training, names, preset) as (better, qat_report):
        added = replace(added, qat_report=qat_report)
        exported, added = _trimmed(better, corpus, added, pairs.texts, callback)
        return export_bundle(
            exported,
            folder,
            precisions=names,
            pairs=(pairs.images, pairs.texts),
            max_drop=request.max_drop,
            name=folder.absolute().name,
            force=force,
            settings=replace(settings, extras=added),
        )


def _held_out(images: str | Path | None, extras: Extras, model: str) -> HeldOut | None:
    """Return held-out images with their labels, None without images."""
    if images is None:
        return None
    from tinyclip_edge.api.held_out import held_out_images

    return held_out_images(images, extras.labels, extras.templates, model)


def preset_of(target: str | Path | ExportPreset | None) -> ExportPreset:
    """Return the settings of a target, by name, "auto" or file; the defaults for None.

    Raises ConfigError, also for "auto" on a processor that has no target.
    """
    from tinyclip_edge.config.preset import ExportPreset, load_preset

    if target is None:
        return ExportPreset()
    if isinstance(target, ExportPreset):
        return target
    if str(target) != AUTO:
        return load_preset(target)
    from tinyclip_edge.runtime.cpu import processor

    kind = processor()
    if kind is None:
        raise ConfigError(
            "target auto: this processor is neither x86 nor 64-bit ARM; leave out --target, for "
            "files that suit every processor"
        )
    return load_preset(kind)


@dataclass(frozen=True, slots=True)
class _Training:
    """What the quantization-aware training of an export reads and where it is stored."""

    request: QatRequest
    source: str
    val: str
    bundle: Path
    progress: bool  # whether to draw a bar

    @property
    def folder(self) -> Path:
        """Folder of the checkpoints, until the bundle is written."""
        return self.bundle.with_name(f"{self.bundle.name}.qat")


@contextmanager
def _finetuned(
    clip: LoadedClip,
    training: _Training | None,
    precisions: Sequence[str],
    preset: ExportPreset,
) -> Iterator[tuple[LoadedClip, dict[str, Any] | None]]:
    """Yield the model after quantization-aware training, or the original if that is better.

    The second value is the report of the training, which continues from its checkpoints after an
    interruption.
    """
    if training is None:
        yield clip, None
        return
    from tinyclip_edge.train import ProgressObserver
    from tinyclip_edge.train.monitoring.events import Observers
    from tinyclip_edge.train.qat.finetune import Finishing
    from tinyclip_edge.train.qat.source import finish_model, rounding_for

    rounding = rounding_for(precisions, preset)
    with ProgressObserver() if training.progress else nullcontext() as bar:
        finished = finish_model(
            clip,
            training.source,
            Finishing(training.request.steps, image=rounding, text=rounding),
            train=training.request.data,
            val=training.val,
            folder=training.folder,
            observer=Observers(bar),
        )
    yield finished.clip, finished.as_dict()
    shutil.rmtree(training.folder, ignore_errors=True)  # only after the bundle is written


def _trimmed(
    clip: LoadedClip, corpus: Path | None, extras: Extras, others: Sequence[str], callback: Say
) -> tuple[LoadedClip, Extras]:
    """Return the model with only the tokens of a corpus and of the labels; unchanged for None.

    ``callback`` is called with how many of the texts ``others`` are now split differently.
    """
    if corpus is None:
        return clip, extras
    from tinyclip_edge.paths import read_lines
    from tinyclip_export.bundle.trim_vocab import trim_vocabulary

    result = trim_vocabulary(clip, [*read_lines(corpus, "corpus"), *extras.prompts], others)
    for line in result.lines:
        callback(line)
    return result.clip, replace(extras, vocabulary=result.report)
