"""A problem of a run that has not started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem; a run with a refusal cannot succeed."""

    refuses: bool
    text: str
