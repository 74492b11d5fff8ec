"""Export of a CLIP to a verified ONNX bundle; needs the ``export`` extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyclip_export.export import export_bundle
    from tinyclip_export.export_report import ExportReport

__all__ = ["ExportReport", "export_bundle"]

_HOMES = {
    "export_bundle": "tinyclip_export.export",
    "ExportReport": "tinyclip_export.export_report",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
