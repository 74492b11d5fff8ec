"""Base class of every section of a configuration."""

from __future__ import annotations

from typing import Any, TypeGuard, get_origin

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Refuses unknown keys and loose types; values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:  # noqa: ANN401 - a type
    """Whether the type of a field is a section of keys."""
    # In Python 3.10 list[str] is an instance of type, but issubclass does not accept it.
    plain = isinstance(annotation, type) and get_origin(annotation) is None
    return plain and issubclass(annotation, BaseModel)


def as_steps(value: float, total_steps: int) -> int:
    """Return ``value`` as a number of steps: below 1 it is a share of ``total_steps``."""
    return round(value * total_steps) if value < 1 else round(value)
