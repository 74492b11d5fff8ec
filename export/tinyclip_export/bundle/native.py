"""Files that a target's engine reads directly, without onnxruntime: ``export --native``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ConfigError
from tinyclip_export.bundle.core_ml import write_packages
from tinyclip_export.bundle.qnn_context import write_contexts

if TYPE_CHECKING:
    from tinyclip_export.export_job import ExportJob, FloatTowers

# Target -> function that writes its files and returns their entry in the manifest.
NATIVE: Mapping[str, Callable[[ExportJob, FloatTowers], dict[str, Any]]] = {
    "qnn": write_contexts,
    "coreml": write_packages,
}


def check_native(target: str | None) -> None:
    """Raise ConfigError for a target that has no files of its own."""
    if target not in NATIVE:
        raise ConfigError(f"--native is for a --target with files of its own: {', '.join(NATIVE)}")


def write_native(job: ExportJob, towers: FloatTowers) -> dict[str, Any]:
    """Write the files of the job's target; return the manifest's entry."""
    target = job.settings.preset.target
    assert target is not None
    return NATIVE[target](job, towers)
