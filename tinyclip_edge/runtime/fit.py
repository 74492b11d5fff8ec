"""Whether a bundle is opened on the target that it was made for."""

from __future__ import annotations

from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.cpu import processor
from tinyclip_edge.runtime.devices import Device
from tinyclip_edge.targets import TARGETS, Target


def misfit(manifest: Manifest, device: Device) -> str | None:
    """Return a sentence if the bundle was made for another target than this device, else None."""
    name = manifest.target.get("name")
    if name is None:
        return None
    target = TARGETS.get(name)
    if target is None:
        return (
            f"bundle {manifest.name} was made for target {name!r}, which this tinyclip-edge does "
            "not know"
        )
    made = f"bundle {manifest.name} was made for target {name} ({target.description})"
    if device.name in target.devices:
        return _misfit_of_processor(target, made) if device.is_cpu else None
    cost = f": {target.elsewhere}" if target.elsewhere else ""
    return f"{made}, device {' or '.join(target.devices)}, but is open on {device.name}{cost}"


def _misfit_of_processor(target: Target, made: str) -> str | None:
    kind = processor()
    if kind is None or not target.processors or kind in target.processors:
        return None
    cost = target.other_processors.get(kind)
    return f"{made}, but this processor is {kind}" + (f"; that costs: {cost}" if cost else "")
