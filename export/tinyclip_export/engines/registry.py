"""The writer of each engine, and whether its packages are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from tinyclip_edge.engines import ENGINES
from tinyclip_edge.errors import missing_extra
from tinyclip_export.engines.writer import EngineWriter


def require_engine(name: str | None) -> None:
    """Raise MissingExtraError for an engine whose packages are not installed."""
    if name is None:
        return
    engine = ENGINES[name]
    for module, package in engine.packages.items():
        if find_spec(module) is None:
            raise missing_extra(f"target {name} needs", package, engine.extra)


def writer_of(name: str) -> EngineWriter:
    """Return an engine's writer."""
    return _WRITERS[name]()


def _openvino() -> EngineWriter:
    from tinyclip_export.engines.openvino_ir import OpenVino

    return OpenVino()


def _litert() -> EngineWriter:
    from tinyclip_export.engines.litert import LiteRt

    return LiteRt()


def _executorch() -> EngineWriter:
    from tinyclip_export.engines.executorch_program import ExecuTorch

    return ExecuTorch()


_WRITERS: Mapping[str, Callable[[], EngineWriter]] = {
    "openvino": _openvino,
    "litert": _litert,
    "executorch": _executorch,
}
