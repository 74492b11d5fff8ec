"""``--device`` and ``--device-option`` of the commands that run a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from tinyclip_edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Where a bundle's towers run."""

    device: Annotated[
        str,
        typer.Option(
            help="Where to run: cpu, cuda, tensorrt, coreml, directml, openvino, qnn, webgpu, …",
            metavar="DEVICE",
        ),
    ] = "cpu"
    device_option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the device's provider; repeatable.", metavar="KEY=VALUE"),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``EdgeCLIP.load``; raise ConfigError for a malformed option."""
        settings = {}
        for pair in self.device_option or ():
            key, equals, value = pair.partition("=")
            if not key or not equals:
                raise ConfigError(f"--device-option {pair!r}: write KEY=VALUE")
            settings[key] = value
        return {"device": self.device, "device_options": settings}


ON_CPU = DeviceOptions()
