"""Base of every section of a configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown keys and loose types are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def as_steps(value: float, total_steps: int) -> int:
    """Return ``value`` as a number of steps: below 1 it is a share of ``total_steps``."""
    return round(value * total_steps) if value < 1 else round(value)
