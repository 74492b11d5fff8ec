"""Names of a package that load on first use, so that importing the package stays cheap."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from tinyclip_edge.moved import moved_name


def lazy_names(package: str, home: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's ``__getattr__``; ``home`` maps a public name to its module.

    A module is named relative to the package, or in full from ``tinyclip_edge``. Names in ``moved``
    are loaded from their new place, with a warning.
    """

    def load(name: str) -> object:
        if name not in home:
            return moved_name(package, name)
        module = home[name]
        absolute = module.startswith("tinyclip_edge.")
        return getattr(importlib.import_module(module if absolute else f"{package}.{module}"), name)

    return load
