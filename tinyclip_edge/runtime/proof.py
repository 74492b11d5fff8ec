"""Whether another device than the CPU gives a bundle's answers, and which device is quickest."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from tinyclip_edge.errors import DeviceError, TinyClipError, TinyClipWarning
from tinyclip_edge.runtime.devices import Device, present_devices
from tinyclip_edge.runtime.golden import GoldenClip, Replay, compare

Clip = TypeVar("Clip", bound=GoldenClip)


def prove(clip: GoldenClip, device: str) -> Replay:
    """Replay the golden vectors; raise DeviceError that names the worst of a device that errs."""
    result = compare(clip)
    if result.failures:
        raise DeviceError(
            f"device {device} gives other answers than bundle {clip.folder} records for "
            f"{result.precision}: {'; '.join(result.failures)}"
        )
    return result


def quickest(load: Callable[[Device], Clip]) -> Clip:
    """Return the bundle on the device that encodes an image soonest, of those that answer right.

    ``load`` opens it on a device, unproven. Devices that fail are told as warnings; with the CPU
    alone nothing is measured.
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
