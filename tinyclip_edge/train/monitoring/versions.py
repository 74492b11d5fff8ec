"""Versions of what a run is made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "torchvision", "open_clip_torch", "accelerate", "numpy", "pillow")


def installed_versions() -> dict[str, str]:
    """Return versions by name: this package, Python and what weights depend on."""
    from tinyclip_edge import __version__

    found = {"tinyclip-edge": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a build without metadata
            continue
    return {**found, "system": platform.platform()}
