"""Towers in onnxruntime's own format, and the operators that a reduced build of it must have."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ModelError, first_line
from tinyclip_edge.models.quiet import quiet

if TYPE_CHECKING:
    from tinyclip_export.export_job import ExportJob

SUFFIX = ".ort"
OPERATORS = "required_operators_and_types.config"
_FOLDER = "onnx"


def convert_towers(job: ExportJob) -> dict[str, Any]:
    """Replace the towers' ONNX files by ``.ort`` files; return their manifest entry.

    They are optimized for 64-bit ARM. Raises ModelError for a tower that onnxruntime cannot
    convert.
    """
    with quiet():
        import onnxruntime as ort
        from onnxruntime.tools.convert_onnx_models_to_ort import (
            OptimizationStyle,
            convert_onnx_models_to_ort,
        )

    folder = job.folder / _FOLDER
    before = _bytes(folder, ".onnx")
    messages = io.StringIO()
    try:
        with quiet(), contextlib.redirect_stdout(messages):
            convert_onnx_models_to_ort(
                folder,
                optimization_styles=[OptimizationStyle.Fixed],
                target_platform="arm",
                enable_type_reduction=True,
            )
    # onnxruntime's exceptions share no base class.
    except Exception as error:
        line = first_line(error)
        raise ModelError(f"onnxruntime cannot write the towers as .ort: {line}") from error
    for path in folder.glob("*.onnx"):
        path.unlink()
    listed = (folder / OPERATORS).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / OPERATORS).write_text(
        "".join(line for line in listed if not line.startswith("#")),  # names local paths
        encoding="utf-8",
    )
    job.settings.notify(
        f".ort files: {_bytes(folder, SUFFIX) / 1e6:.1f} MB, {before / 1e6:.1f} MB as ONNX"
    )
    return {"onnxruntime": ort.__version__, "operators": f"{_FOLDER}/{OPERATORS}"}


def _bytes(folder: Path, suffix: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"*{suffix}"))
