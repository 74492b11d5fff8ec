"""Base of every section of a configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown keys and loose types are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def as_steps(value: float, whole: int) -> int:
    """Return ``value`` as a number of steps: below 1 it is a share of ``whole``."""
    return round(value * whole) if value < 1 else round(value)
