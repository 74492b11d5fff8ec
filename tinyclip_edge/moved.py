"""Public modules and names that have moved; the old ones still work, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import Loader  # at run time it would import importlib.resources

LAST_VERSION = "0.3"  # the first without the old places
# Modules below a moved one are moved with it.
MODULES = {
    "tinyclip_edge.evaluate": "tinyclip_edge.evaluation",
    "tinyclip_edge.inherit": "tinyclip_edge.inheritance",
    "tinyclip_edge.train.report": "tinyclip_edge.report",
    "tinyclip_export.calibration": "tinyclip_export.quantization.calibration",
    "tinyclip_export.graph": "tinyclip_export.onnx_passes.exporter",
    "tinyclip_export.hub_layout": "tinyclip_export.bundle.hub_files",
    "tinyclip_export.quantize": "tinyclip_export.quantization.dynamic_int8",
    "tinyclip_export.report": "tinyclip_export.export_report",
    "tinyclip_export.verify": "tinyclip_export.verification.gates",
}
NAMES = {
    "tinyclip_edge.config.AlsoConfig": "tinyclip_edge.config.EnsembleMemberConfig",
    "tinyclip_edge.data.KeptRows": "tinyclip_edge.data.CachedRows",
    "tinyclip_edge.inheritance.Taken": "tinyclip_edge.inheritance.InheritedUnits",
    "tinyclip_edge.report.leave_report": "tinyclip_edge.report.write_final_report",
}


def current_module(name: str) -> str | None:
    """Return the name that a moved module has now, None for one that was not moved."""
    for old, new in MODULES.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return None


def moved_name(package: str, name: str) -> object:
    """Return the object of a package's old public name, with a warning, or raise AttributeError."""
    old = f"{package}.{name}"
    if old not in NAMES:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    _warn(old, NAMES[old], stacklevel=4)  # the code that reads the attribute
    module, _, current = NAMES[old].rpartition(".")
    return getattr(import_module(module), current)


def install() -> None:
    """Make imports of moved modules work."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        # First, because other finders would load the modules of a moved package a second time.
        sys.meta_path.insert(0, _MovedModules())


class _MovedModules:
    """Finds a moved module and returns the same object as under its current name."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if current_module(name) is None else ModuleSpec(name, cast("Loader", self))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        current = current_module(spec.name)
        assert current is not None
        module = import_module(current)
        spec.loader_state = module.__spec__
        _warn(spec.name, current, stacklevel=3)  # the import; frames of importlib do not count
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back, which the import has replaced."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    from tinyclip_edge.errors import TinyClipWarning

    message = f"{old} is {new} now; the old name works until {LAST_VERSION}"
    warnings.warn(message, TinyClipWarning, stacklevel=stacklevel)
