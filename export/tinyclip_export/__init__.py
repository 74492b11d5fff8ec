"""Export of a CLIP to a verified ONNX bundle; requires the ``export`` extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_export.export import export_bundle
    from tinyclip_export.export_report import ExportReport

__all__ = ["ExportReport", "export_bundle"]

__getattr__ = lazy_names(__name__, {"ExportReport": "export_report", "export_bundle": "export"})
