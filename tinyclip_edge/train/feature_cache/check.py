"""Check, without torch, that runs of a configuration read a feature cache."""

from __future__ import annotations

from tinyclip_edge.config import DataConfig
from tinyclip_edge.errors import ConfigError


def check_cached(data: DataConfig) -> None:
    """Raise ConfigError unless runs read the teacher's features from a cache."""
    if not data.cache_teacher:
        raise ConfigError(
            "data.cache_teacher is false, so runs would not read a cache; set it to true"
        )
    if data.feature_cache is None:
        raise ConfigError("data.feature_cache is null; set it to the folder of the cache")
