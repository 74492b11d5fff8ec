"""Replay a bundle's golden vectors on this machine, on any of its devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tinyclip_edge.runtime.devices import CPU
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.golden import Replay, compare


def replay(
    folder: str | Path,
    precision: str,
    *,
    threads: int | None = None,
    device: str = CPU,
    device_options: Mapping[str, str] | None = None,
) -> Replay:
    """Open the bundle in one precision and compare its embeddings with the recorded ones.

    Raise BundleError if it does not open or has no golden vectors for this precision, DeviceError
    if the device is not available.
    """
    clip = EdgeCLIP.load(
        folder,
        precision=precision,
        threads=threads,
        verify=device == CPU,  # on other devices it would raise for what the caller reports
        device=device,
        device_options=device_options,
    )
    return compare(clip)
