"""What a finish for int8 learns from: the run that a student comes from, or given pairs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from tinyclip_edge.config import DataConfig, OptimConfig, RunConfig, TeacherConfig, load_config
from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.config.shrink import StudentConfig
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.train.monitoring.events import Observer
from tinyclip_edge.train.qat.fake_quant import BLOCK, Rounding
from tinyclip_edge.train.qat.finetune import Finished, Finishing, finish_quantized

CONFIG = "config.yaml"  # of a run folder
MODELS = ("student", "best")  # that lie in one
OPTIM = OptimConfig(lr=1e-4, batch_size=256)  # of a model that no run of ours made


def finish_model(
    clip: LoadedClip,
    source: str,
    finishing: Finishing,
    *,
    train: str | None,
    val: str,
    observer: Observer,
) -> Finished:
    """Finish the model of MODEL string ``source``, named for it, with what its run knows.

    A run gives teacher, loss, pairs and seed; any other model is its own teacher, on the pairs
    ``train``, which may replace a run's as well. ``val`` serves where a run has no validation
    pairs. Raises ConfigError without pairs, DataError and ModelError.
    """
    run = run_folder(source)
    teacher: LoadedClip | None = None
    if run is not None:
        config = load_config(run / CONFIG)
        teacher = load_clip(config.teacher.model, config.teacher.pretrained)
        data = config.data.model_copy(
            update={"train": train or config.data.train, "val": config.data.val or val}
        )
        config = config.model_copy(update={"data": data})
    elif train is None:
        raise ConfigError(
            f"{source} is no run, whose training pairs are known: give some with --qat-data"
        )
    else:
        config = RunConfig(
            teacher=TeacherConfig(model=source),
            student=StudentConfig(model=source),
            data=DataConfig(train=train, val=val),
            optim=OPTIM,
        )
    found = finish_quantized(clip, teacher, config, finishing, observer=observer)
    if not found.helped:
        return found
    name = f"{clip.name} finished for int8 in {finishing.steps} steps"
    return replace(found, clip=replace(found.clip, name=name))


def run_folder(source: str) -> Path | None:
    """Return the run that ``source`` is or lies in; None for another model."""
    path = Path(source)
    places = (path, path.parent) if path.name in MODELS else (path,)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def rounding_for(precisions: Collection[str], preset: ExportPreset) -> Rounding:
    """Return how the coarsest of the precisions rounds. Raises ConfigError for float ones alone."""
    weights = preset.weight_only
    wanted = [PRECISIONS[name] for name in precisions]
    kinds = {precision.recipe for precision in wanted}
    four_bits = any(precision.options.get("weights") == "4 bit" for precision in wanted)
    if four_bits and weights.block == BLOCK:
        return Rounding("4 bit", weights.token_table)
    if "static" in kinds and "dynamic" not in kinds:
        return Rounding(preset.static.weight_range, preset.static.token_table)
    if {"dynamic", "dynamic uint8"}.intersection(kinds):
        signed = "dynamic" in kinds and preset.int8.weights == "int8"
        return Rounding(preset.int8.weight_range if signed else "8 bit", preset.int8.token_table)
    raise ConfigError("--qat finishes a model for int8, static or q4; add --int8")
