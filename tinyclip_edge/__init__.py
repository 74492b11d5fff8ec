"""Distil a CLIP, export it as verified int8 ONNX, run it without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyclip_edge import moved

if TYPE_CHECKING:
    from tinyclip_edge.runtime.edge import EdgeCLIP as EdgeCLIP
    from tinyclip_edge.runtime.index import ImageIndex as ImageIndex

    __version__: str

__all__ = ["EdgeCLIP", "ImageIndex", "__version__"]

_FALLBACK_VERSION = "0.2.0"  # of a source tree that is not installed

moved.install()


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class or a string
    """Load public names on first use, so that ``import tinyclip_edge`` costs nothing."""
    value: Any
    if name == "EdgeCLIP":
        from tinyclip_edge.runtime.edge import EdgeCLIP

        value = EdgeCLIP
    elif name == "ImageIndex":
        from tinyclip_edge.runtime.index import ImageIndex

        value = ImageIndex
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
