"""Problems of a run that has not started, and the thresholds for them."""

from __future__ import annotations

from dataclasses import dataclass

MIN_IMAGES = 36  # fewer teach nothing once some are held out
ALIKE = 0.9  # share of one picture or caption above which nothing can be learnt
MANY = 0.1  # share of repeated, truncated, plain or confused items above which they are reported
SIGMAS = 3  # standard errors above chance that a teacher must reach
SKILL = 0.05  # skill (0 at chance, 1 at 100 %) below which a teacher knows little


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem; a run with a refusal cannot succeed."""

    refuses: bool
    text: str
