"""Towers in a format other than ONNX, for targets whose engine has its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.targets import TARGETS
from tinyclip_export.bundle import ort_files

if TYPE_CHECKING:
    from tinyclip_export.export_job import ExportJob

# Suffix of a target's files -> function that converts the ONNX towers to them, after all gates.
CONVERTERS: Mapping[str, Callable[[ExportJob], dict[str, Any]]] = {
    ort_files.SUFFIX: ort_files.convert_towers
}


def check_extras(job: ExportJob) -> None:
    """Raise ConfigError for optional ONNX files if the target's engine cannot open them."""
    extras = job.settings.extras
    added = extras.labels or extras.embed_preprocessing or extras.embed_tokenizer or extras.layouts
    if job.suffix in CONVERTERS and added:
        raise ConfigError(
            f"target {job.settings.preset.target} writes only the two towers, as {job.suffix}; "
            "omit --labels, --embed-preprocessing, --embed-tokenizer and --layout"
        )


def convert_for_target(job: ExportJob) -> dict[str, Any]:
    """Convert the towers if the job's target asks for it; return the manifest's ``target``."""
    name = job.settings.preset.target
    if name is None:
        return {}
    converter = CONVERTERS.get(TARGETS[name].suffix)
    return {"name": name, **({} if converter is None else converter(job))}
