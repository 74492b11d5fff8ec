"""Distil a CLIP, export it as verified int8 ONNX, run it without torch."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tinyclip_edge import moved

if TYPE_CHECKING:
    from tinyclip_edge.api.bundles import check as check
    from tinyclip_edge.api.exporting import export as export
    from tinyclip_edge.api.models import compare as compare
    from tinyclip_edge.api.models import convert as convert
    from tinyclip_edge.api.models import evaluate as evaluate
    from tinyclip_edge.api.tailoring import tailor as tailor
    from tinyclip_edge.api.training import distill as distill
    from tinyclip_edge.api.training import inherit as inherit
    from tinyclip_edge.collection.duplicates import duplicate_groups as duplicate_groups
    from tinyclip_edge.collection.embedding import embed_shards as embed_shards
    from tinyclip_edge.collection.folder_index import index_folders as index_folders
    from tinyclip_edge.models import load_clip as load_clip
    from tinyclip_edge.runtime.edge import EdgeCLIP as EdgeCLIP
    from tinyclip_edge.runtime.index import ImageIndex as ImageIndex
    from tinyclip_edge.selection.selecting import select as select

    __version__: str

_HOME = {
    "EdgeCLIP": "runtime.edge",
    "ImageIndex": "runtime.index",
    "check": "api.bundles",
    "compare": "api.models",
    "convert": "api.models",
    "distill": "api.training",
    "duplicate_groups": "collection.duplicates",
    "embed_shards": "collection.embedding",
    "evaluate": "api.models",
    "export": "api.exporting",
    "index_folders": "collection.folder_index",
    "inherit": "api.training",
    "load_clip": "models",
    "select": "selection.selecting",
    "tailor": "api.tailoring",
}

__all__ = [
    "EdgeCLIP",
    "ImageIndex",
    "__version__",
    "check",
    "compare",
    "convert",
    "distill",
    "duplicate_groups",
    "embed_shards",
    "evaluate",
    "export",
    "index_folders",
    "inherit",
    "load_clip",
    "select",
    "tailor",
]

_FALLBACK_VERSION = "0.2.0"  # for a source tree that is not installed

moved.install()


class _Package(ModuleType):
    """This package, in which importing a moved module does not hide the function of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class, a function or a string
    """Load public names on first use, so that ``import tinyclip_edge`` costs nothing."""
    value: Any
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name == "__version__":
        from importlib import metadata

        try:
            value = metadata.version("tinyclip-edge")
        except metadata.PackageNotFoundError:
            value = _FALLBACK_VERSION
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
