"""Operators for texts and encoded pictures, from the library of onnxruntime-extensions.

The library is always that of the installed package: no file of a bundle names one.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, TypeAlias

from tinyclip_edge.errors import missing_extra
from tinyclip_edge.runtime.session import session_options

Session: TypeAlias = Any  # onnxruntime.InferenceSession, which has no types

TEXT_DOMAIN = "ai.onnx.contrib"
PICTURE_DOMAIN = "com.microsoft.extensions"
PACKAGE = "onnxruntime_extensions"


def require_extension() -> None:
    """Raise MissingExtraError unless onnxruntime-extensions is installed."""
    if find_spec(PACKAGE) is None:
        raise missing_extra(
            "--embed-tokenizer needs", "onnxruntime-extensions (Python 3.10 to 3.13)", "extensions"
        )


def open_with_extension(
    model: bytes, *, threads: int | None = None, precise_int8: bool = False
) -> Session:
    """Open a graph in onnxruntime with the operators of onnxruntime-extensions."""
    import onnxruntime as ort
    from onnxruntime_extensions import get_library_path

    options = session_options(threads=threads, precise_int8=precise_int8)
    options.register_custom_ops_library(get_library_path())
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
