"""Renamed configuration keys and values; the old ones are accepted until 0.3."""

from __future__ import annotations

import warnings
from typing import Any

from tinyclip_edge.errors import ConfigError, TinyClipWarning
from tinyclip_edge.moved import LAST_VERSION

RUN_KEYS = {"data.lanes": "data.stream_groups", "teacher.also": "teacher.ensemble"}
PRESET_VALUES = {
    (key, "pairs"): "overflow_safe" for key in ("int8.weight_range", "static.weight_range")
}


def current_key(key: str, source: str) -> str:
    """Return the current name of ``key``, or of its parent key, with a warning for an old one.

    ``source`` is the file or override that the warning names.
    """
    for old, new in RUN_KEYS.items():
        if key == old or key.startswith(f"{old}."):
            _warn(source, old, new)
            return new + key.removeprefix(old)
    return key


def rename_keys(raw: dict[str, Any], source: str, *, warn: bool = True) -> None:
    """Move the values of old keys to the new ones, in place, with a warning for each.

    ``warn`` is False for records that a run wrote itself. Raises ConfigError if both are set.
    """
    for old, new in RUN_KEYS.items():
        section, name = old.split(".")
        values = raw.get(section)
        if not isinstance(values, dict) or name not in values:
            continue
        new_name = new.split(".")[1]
        if new_name in values:
            raise ConfigError(
                f"{source}: {old} is now called {new}, and both are set; remove {old}"
            )
        if warn:
            _warn(source, old, new)
        values[new_name] = values.pop(name)


def rename_preset_values(raw: dict[str, Any], source: str) -> None:
    """Replace the old names of a preset's values, in place, with a warning for each."""
    for (key, old), new in PRESET_VALUES.items():
        section, name = key.split(".")
        values = raw.get(section)
        if isinstance(values, dict) and values.get(name) == old:
            _warn(source, f"{key}: {old}", f"{key}: {new}")
            values[name] = new


def _warn(source: str, old: str, new: str) -> None:
    message = (
        f"{source}: '{old}' is now called '{new}'; the old name is accepted until {LAST_VERSION}"
    )
    warnings.warn(message, TinyClipWarning, stacklevel=4)
