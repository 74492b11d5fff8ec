"""Whether the target that a bundle was made for is where it is opened."""

from __future__ import annotations

from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.devices import Device
from tinyclip_edge.targets import TARGETS


def misfit(manifest: Manifest, device: Device) -> str | None:
    """Return a sentence about a bundle that was made for another target than this device.

    None for one that fits, or that names no target.
    """
    name = manifest.target.get("name")
    if name is None:
        return None
    target = TARGETS.get(name)
    if target is None:
        return (
            f"bundle {manifest.name} was made for target {name!r}, which this tinyclip-edge does "
            "not know"
        )
    if device.name in target.devices:
        return None
    cost = f": {target.elsewhere}" if target.elsewhere else ""
    return (
        f"bundle {manifest.name} was made for target {name} ({target.description}), device "
        f"{' or '.join(target.devices)}, and is open on {device.name}{cost}"
    )
