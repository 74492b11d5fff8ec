"""The commands as Python functions, which return reports.

``tinyclip_edge.distill`` and the others come from here; each imports what it needs when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_edge.api.bundles import BundleCheck, check
    from tinyclip_edge.api.exporting import QatRequest, VerificationRequest, export
    from tinyclip_edge.api.models import compare, convert, evaluate
    from tinyclip_edge.api.tailoring import tailor
    from tinyclip_edge.api.training import InheritedStudent, distill, inherit

_HOME = {
    "BundleCheck": "bundles",
    "InheritedStudent": "training",
    "QatRequest": "exporting",
    "VerificationRequest": "exporting",
    "check": "bundles",
    "compare": "models",
    "convert": "models",
    "distill": "training",
    "evaluate": "models",
    "export": "exporting",
    "inherit": "training",
    "tailor": "tailoring",
}

__all__ = [
    "BundleCheck",
    "InheritedStudent",
    "QatRequest",
    "VerificationRequest",
    "check",
    "compare",
    "convert",
    "distill",
    "evaluate",
    "export",
    "inherit",
    "tailor",
]

__getattr__ = lazy_names(__name__, _HOME)
