"""Open any MODEL as an Embedder: bundles without torch, all others with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinyclip_edge.errors import ConfigError, MissingExtraError, ModelError, did_you_mean
from tinyclip_edge.models import check_model
from tinyclip_edge.paths import expanded, is_file, model_name
from tinyclip_edge.runtime.bundle import MANIFEST
from tinyclip_edge.runtime.protocol import Embedder

DEVICES = ("auto", "cpu", "cuda")


def is_bundle(model: str) -> bool:
    """Whether the string names a bundle folder."""
    return is_file(Path(expanded(model)) / MANIFEST)


def check_openable(model: str) -> None:
    """Raise ModelError for an unknown MODEL, without importing torch."""
    if not is_bundle(model):
        check_model(model)


def names_of(models: Sequence[str]) -> dict[str, str]:
    """Return the name of every MODEL, or its whole path if another one has the same name."""
    short = {model: model_name(model) for model in models}
    uses = Counter(short.values())
    return {model: name if uses[name] == 1 else model for model, name in short.items()}


def open_embedder(
    model: str,
    *,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Embedder:
    """Open a bundle folder with onnxruntime, any other MODEL with PyTorch on ``device``.

    ``precision`` is one of the bundle's; ``device`` is ``auto``, ``cpu`` or ``cuda``. Raises
    ConfigError for another device, BundleError, ModelError, or MissingExtraError if torch is
    required but not installed.
    """
    if device not in DEVICES:
        raise ConfigError(
            f"unknown device {device!r} (auto, cpu or cuda){did_you_mean(device, DEVICES)}"
        )
    if is_bundle(model):
        from tinyclip_edge.runtime.edge import EdgeCLIP

        return EdgeCLIP.load(model, precision=precision, threads=threads)
    if precision not in (None, "fp32"):
        raise ModelError(f"{model} is not a bundle and has no precision {precision}; export it")
    check_model(model)
    return _open_torch(model, threads, device)


def open_on_device(
    model: str,
    *,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
) -> Embedder:
    """Open a bundle on any of onnxruntime's devices, any other MODEL on PyTorch's.

    Raises DeviceError for a bundle's device that is not available or gives other embeddings, else
    like ``open_embedder``.
    """
    if not is_bundle(model):
        return open_embedder(model, precision=precision, threads=threads, device=device)
    from tinyclip_edge.runtime.edge import EdgeCLIP

    return EdgeCLIP.load(
        model, precision=precision, threads=threads, device=device, device_options=device_options
    )


def _open_torch(model: str, threads: int | None, device: str) -> Embedder:
    try:
        import torch

        from tinyclip_edge.models import TorchEmbedder, load_clip
    except ImportError as error:
        if error.name not in ("torch", "open_clip", "torchvision", "safetensors"):
            raise
        raise MissingExtraError(
            f"{model} runs in PyTorch, which is not installed: pip install 'tinyclip-edge[distill]'"
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device}: PyTorch sees no CUDA device; use cpu or auto")
    return TorchEmbedder(load_clip(model), device=device)
