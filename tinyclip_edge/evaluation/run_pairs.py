"""The validation pairs of a run, named by its configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinyclip_edge.config import load_config
from tinyclip_edge.config.source_options import DEFAULT, SourceOptions
from tinyclip_edge.errors import DataError
from tinyclip_edge.paths import expanded

YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class NamedPairs:
    """One or more patterns, and how they are read."""

    source: str | Sequence[str]
    options: SourceOptions = DEFAULT


def named_pairs(source: str) -> NamedPairs:
    """Return ``data.val`` of a run's YAML file, with its columns and limits; else the source.

    Commands in such a file are not run. Raises ConfigError for an invalid file, and DataError for
    one without validation pairs.
    """
    if not source.lower().endswith(YAML_SUFFIXES):
        return NamedPairs(source)
    data = load_config(expanded(source)).data
    if data.val is None:
        raise DataError(f"{source} has no pairs to evaluate on: its data.val is null")
    return NamedPairs(data.val, replace(data.source_options, allow_pipes=False))
