"""What an update of the index of folders did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tinyclip_edge.runtime.index_file import SkippedImage


@dataclass(slots=True)
class IndexReport:
    """What an update did, in numbers of pictures; a video counts as one picture."""

    index: str  # path
    pictures: int = 0  # in the index, without frames
    frames: int = 0  # in the index
    videos: int = 0  # below the folders, read
    unread_videos: int = 0  # below the folders, without PyAV
    unchanged: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    skipped: tuple[SkippedImage, ...] = ()  # broken pictures and unreadable folders
    seconds: float = 0.0

    @property
    def differs(self) -> bool:
        """Whether the index was changed."""
        return bool(self.new or self.changed or self.moved or self.deleted)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "skipped": [entry._asdict() for entry in self.skipped]}
