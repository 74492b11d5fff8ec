"""Whether a device reproduces a bundle's recorded embeddings, and which device is fastest."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from tinyclip_edge.errors import DeviceError, TinyClipError, TinyClipWarning
from tinyclip_edge.runtime.devices import Device, present_devices
from tinyclip_edge.runtime.golden import GoldenClip, Replay, compare

Clip = TypeVar("Clip", bound=GoldenClip)


def prove(clip: GoldenClip, device: str) -> Replay:
    """Replay the golden vectors; raise DeviceError, naming the worst, if the device's differ."""
    result = compare(clip)
    if result.failures:
        raise DeviceError(
            f"device {device} computes other embeddings than bundle {clip.folder} records for "
            f"{result.precision}: {'; '.join(result.failures)}"
        )
    return result


def quickest(load: Callable[[Device], Clip]) -> Clip:
    """Return the bundle on the device that encodes an image fastest, of those that do so correctly.

    ``load`` opens it on a device, unchecked. Devices that fail are reported as warnings; with only
    the CPU, nothing is measured.
    """
    devices = present_devices()
    if len(devices) == 1:
        return load(devices[0])
    opened: list[tuple[float, Clip]] = []
    for device in devices:
        try:
            clip = load(device)
            opened.append((prove(clip, device.name).image_ms, clip))
        except TinyClipError as error:
            if device.is_cpu:
                raise
            warnings.warn(f"not used: {error}", TinyClipWarning, stacklevel=3)
    return min(opened, key=lambda entry: entry[0])[1]
