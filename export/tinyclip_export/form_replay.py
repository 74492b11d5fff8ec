"""The result of a replay of golden vectors with files in a form other than a bundle's towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FormReplay:
    """One form of the towers in one precision; values are by tower, for those that it has."""

    name: str  # "litert int8", "int8 from strings"
    cosine: Mapping[str, float] = field(default_factory=dict)  # minimum
    least: Mapping[str, float] = field(default_factory=dict)  # minimum that must be reached
    ms: Mapping[str, float] = field(default_factory=dict)  # median of one input
    same_ids: bool | None = None  # whether texts have the recorded ids; None without texts
    error: str | None = None  # that ended the replay

    @property
    def failures(self) -> tuple[str, ...]:
        """Problems, one text each."""
        if self.error is not None:
            return (self.error,)
        failures = [
            f"{tower} cosine {cosine:.5f} is below {self.least[tower]}"
            for tower, cosine in self.cosine.items()
            if not cosine >= self.least[tower]
        ]
        return (*(["texts give different token ids"] if self.same_ids is False else []), *failures)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "passed": not self.failures, "failures": list(self.failures)}
