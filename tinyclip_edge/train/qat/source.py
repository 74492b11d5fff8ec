"""Settings of quantization-aware training: from the student's run, or for other pairs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyclip_edge.config import DataConfig, OptimConfig, RunConfig, TeacherConfig, load_config
from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.config.shrink import StudentConfig
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.train.monitoring.events import Observer
from tinyclip_edge.train.qat.fake_quant import Rounding
from tinyclip_edge.train.qat.finetune import Finished, Finishing, finish_quantized
from tinyclip_edge.train.qat.near_values import BLOCK

CONFIG = "config.yaml"  # of a run folder
MODELS = ("student", "best")  # in a run folder
OPTIM = OptimConfig(lr=1e-4, batch_size=256)  # of a model without a run


def finish_model(
    clip: LoadedClip,
    source: str,
    finishing: Finishing,
    *,
    train: str | None,
    val: str,
    folder: Path,
    observer: Observer,
) -> Finished:
    """Fine-tune the model of MODEL string ``source`` with the settings of its run.

    A run determines teacher, loss, pairs and seed; any other model is its own teacher, on the pairs
    ``train``, which may also replace those of a run. ``val`` is used if a run has no validation
    pairs. An interrupted training continues from the checkpoints in ``folder``. Raises ConfigError
    without pairs, DataError, ModelError, and InterruptedRun.
    """
    run = run_folder(source)
    teacher: LoadedClip | None = None
    if run is not None:
        config = load_config(run / CONFIG)
        teacher = load_clip(config.teacher.model, config.teacher.pretrained)
        replaced: dict[str, Any] = (
            {"train": train, "images": None, "texts": None, "mix": []} if train else {}
        )
        data = config.data.model_copy(update={**replaced, "val": config.data.val or val})
        config = config.model_copy(update={"data": data})
    elif train is None:
        raise ConfigError(
            f"{source} is not a run, so its training pairs are unknown: pass some with --qat-data"
        )
    else:
        config = RunConfig(
            teacher=TeacherConfig(model=source),
            student=StudentConfig(model=source),
            data=DataConfig(train=train, val=val),
            optim=OPTIM,
        )
    finished = finish_quantized(clip, teacher, config, finishing, folder=folder, observer=observer)
    if not finished.helped:
        return finished
    name = f"{clip.name} fine-tuned for int8 in {finishing.steps:,} steps"
    return replace(finished, clip=replace(finished.clip, name=name))


def run_folder(source: str) -> Path | None:
    """Return the run folder that ``source`` is, or belongs to; None for another model."""
    path = Path(source)
    folders = (path, path.parent) if path.name in MODELS else (path,)
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def rounding_for(precisions: Collection[str], preset: ExportPreset) -> Rounding:
    """Return the rounding of the coarsest precision. Raises ConfigError if all are float."""
    weights = preset.weight_only
    exported = [PRECISIONS[name] for name in precisions]
    kinds = {precision.recipe for precision in exported}
    four_bits = any(precision.options.get("weights") == "4 bit" for precision in exported)
    if four_bits and weights.block == BLOCK:
        return _rounding("4 bit", weights.token_table)
    if "static" in kinds and "dynamic" not in kinds:
        return _rounding(preset.static.weight_range, preset.static.token_table)
    if {"dynamic", "dynamic uint8"}.intersection(kinds):
        int8 = preset.int8
        signed = "dynamic" in kinds and int8.weights == "int8"
        rounding = _rounding(int8.weight_range if signed else "8 bit", int8.token_table)
        return replace(
            rounding, centred=int8.norms != "layer", halves=int8.feed_forward == "halves"
        )
    raise ConfigError("--qat fine-tunes a model for int8, static or q4; add --int8")


def _rounding(weights: str, table: str) -> Rounding:
    if table == "3 bit":
        raise ConfigError("--qat does not support a 3-bit token table; use --token-bits 4 or 8")
    return Rounding(weights, table)
