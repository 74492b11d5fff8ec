"""Towers whose like this test run has exported before, where the exporter itself is not tested."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from shared_builds import built_once
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.onnx_passes.exchange_weights import exchange_weights


@contextmanager
def each_tower_exported_once(factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let a tower have the graph of an earlier one that differs in weights alone, of any worker.

    The bytes are those of an export, see unit/export/test_exchange_weights.py, and every export
    compares them with PyTorch.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("export_image_tower", "export_text_tower"):
            patch.setattr(exporter, name, _once(getattr(exporter, name), factory))
        yield


def _once(export: Callable[..., None], factory: pytest.TempPathFactory) -> Callable[..., None]:
    def exported(tower: torch.nn.Module, path: Path, **options: object) -> None:
        def build(folder: Path) -> None:
            export(tower, folder / "tower.onnx", **options)
            torch.save(tower, folder / "tower.pt")

        folder = built_once(factory, f"tower-{_key(tower.eval(), options)}", build)
        before = torch.load(folder / "tower.pt", weights_only=False)
        if not exchange_weights(folder / "tower.onnx", path, before, tower):
            export(tower, path, **options)

    return exported


def _key(tower: torch.nn.Module, options: dict[str, object]) -> str:
    """Hash of the modules, their attributes and shapes, without the weights."""
    shape, content = copy.deepcopy(tower), io.BytesIO()
    with torch.no_grad():
        for parameter in shape.parameters():
            parameter.zero_()
    torch.save(shape, content)
    content.write(repr(sorted(options.items())).encode())
    return hashlib.sha256(content.getvalue()).hexdigest()
