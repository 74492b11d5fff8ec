"""Versions of the packages that a run uses."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "torchvision", "open_clip_torch", "accelerate", "numpy", "pillow")


def installed_versions() -> dict[str, str]:
    """Return versions by name: this package, Python, and packages that weights depend on."""
    from tinyclip_edge import __version__

    versions = {"tinyclip-edge": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # installed without metadata
            continue
    return {**versions, "system": platform.platform()}
