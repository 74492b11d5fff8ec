"""What other installed packages add through entry points of the groups below.

Whoever installs a package trusts its code; a configuration can only name its entry points.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tinyclip_edge.errors import TinyClipError, TinyClipWarning

LOSSES = "tinyclip_edge.losses"  # tinyclip_edge.config.loss.LossEntry
DATA = "tinyclip_edge.data"  # function of (address, SourceOptions): the parts of NAME:ADDRESS
MODELS = "tinyclip_edge.models"  # function of (address, device): the LoadedClip of NAME:ADDRESS
TARGETS = "tinyclip_edge.targets"  # mapping with the keys of configs/export, or path of a file


class PluginError(TinyClipError):
    """An entry point of an installed package cannot be loaded, or has the wrong type."""


def plugin_names(group: str) -> tuple[str, ...]:
    """Return the names that installed packages add to a group."""
    return tuple(sorted(_entries(group)))


def load_plugin(group: str, name: str) -> Any:  # noqa: ANN401 - whatever the package has
    """Return what a package adds under a name. Raises PluginError, which names the package."""
    entry = _entries(group)[name]
    try:
        return entry.load()
    # Code of others may fail in any way.
    except Exception as error:
        raise PluginError(f"{described(group, name)} cannot be loaded: {error!r}") from error


def call_plugin(group: str, name: str, address: str, *arguments: object) -> Any:  # noqa: ANN401
    """Return the result of a plugin's function for NAME:ADDRESS. Raises TinyClipError."""
    try:
        return load_plugin(group, name)(address, *arguments)
    except TinyClipError:
        raise
    # Code of others may fail in any way.
    except Exception as error:
        raise PluginError(f"{described(group, name)} fails on {address!r}: {error!r}") from error


def described(group: str, name: str) -> str:
    """Return a plugin's name, kind and package for a message."""
    entry = _entries(group)[name]
    package = entry.dist.name if entry.dist is not None else entry.value
    return f"{group.rpartition('.')[2]} '{name}' of the package {package}"


def loaded_plugins(group: str, kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield (name, object) for a group; warn about those that are broken or of the wrong type."""
    for name in plugin_names(group):
        try:
            value = load_plugin(group, name)
            fault = f"{described(group, name)} is not a {kind.__name__}"
        except PluginError as error:
            value, fault = None, str(error)
        if isinstance(value, kind):
            yield name, value
        else:
            warnings.warn(f"{fault}; it is left out", TinyClipWarning, stacklevel=2)


def scheme_of(group: str, address: str) -> tuple[str, str] | None:
    """Return (name, rest) of ``NAME:REST`` if a package adds the name to the group."""
    name, colon, rest = address.partition(":")
    return (name, rest) if colon and name in _entries(group) else None


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}
