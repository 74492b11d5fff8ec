"""The request of a selection, and its report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.runtime.protocol import Progress
from tinyclip_edge.selection.ngrams import Hashing

MOST_BUCKETS = 1 << 24


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call of ``select``, with absolute paths."""

    sources: tuple[str, ...]
    out: Path
    count: int
    work: Path
    texts: tuple[str, ...] = ()
    pictures: tuple[Path, ...] = ()
    teacher: str = "starter-teacher"
    feature_cache: Path | None = None
    near_duplicates: float | None = None  # least cosine of near-duplicates
    hashing: Hashing = field(default_factory=Hashing)
    smoothing: float = 0.2
    seed: int = 0
    workers: int = 1
    cluster: str | None = None
    progress: Progress = False

    @property
    def uses_teacher(self) -> bool:
        """Whether pictures are embedded."""
        return bool(self.pictures) or self.near_duplicates is not None

    def check(self) -> None:
        """Raise ConfigError for values out of range."""
        if not self.texts and not self.pictures:
            raise ConfigError(
                "a selection needs a target: --target-texts FILE, --target-images FOLDER, or both"
            )
        for name, value, least in (
            ("count", self.count, 1), ("workers", self.workers, 1), ("seed", self.seed, 0),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"{name} must be {least} or more, not {value}")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise ConfigError(
                f"--drop-duplicates {self.near_duplicates:g} is not a cosine above 0 and up to 1; "
                "0.95 is usual"
            )
        if not 0 < self.smoothing < 1:
            raise ConfigError(f"smoothing must be between 0 and 1, not {self.smoothing:g}")
        if not 1 <= self.hashing.buckets <= MOST_BUCKETS or not 1 <= self.hashing.longest <= 5:
            raise ConfigError(
                f"buckets must be 1 to {MOST_BUCKETS:,} and n-grams have 1 to 5 words"
            )
        if self.cluster is not None and self.workers > 1:
            raise ConfigError("--workers is for this machine; leave it out with --cluster")


@dataclass(frozen=True, slots=True)
class SelectionReport:
    """What ``select`` did."""

    out: str
    pairs: int  # that were chosen
    of: int
    near_duplicates: int  # left out for a pair with a larger weight
    log_weight: float  # mean of the chosen pairs
    log_weight_of_all: float
    unusable: int  # samples
    notes: tuple[str, ...]  # on truncated shards and unusable samples
    shards_read: int  # by this call; the others were read before
    seconds: float
    shards: int | None = None  # that were written

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "notes": list(self.notes)}
