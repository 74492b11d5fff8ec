"""The galleries to search: the page's own, and those opened by visitors."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from tinyclip_demo.gallery import Gallery, folder_gallery, uploaded_gallery
from tinyclip_edge.errors import DataError

MAX_VISITOR_GALLERIES = 4  # the least recently used is dropped


class Galleries:
    """Galleries by key; each visitor's page holds the key of its gallery."""

    def __init__(self, default: Gallery) -> None:
        self.default = default
        self._lock = threading.Lock()
        self._uploaded: OrderedDict[str, Gallery] = OrderedDict()

    def get(self, key: str | None) -> Gallery:
        """Return a gallery, the page's own for None; raise DataError if it was dropped."""
        if key is None:
            return self.default
        with self._lock:
            if key not in self._uploaded:
                raise DataError("these pictures are no longer available: drop them again")
            self._uploaded.move_to_end(key)
            return self._uploaded[key]

    def own(self, key: str | None) -> Gallery:
        """Return a visitor's own pictures; for None, those of the demo's own folder.

        Raises DataError when there are none.
        """
        if key is None and self.default.folder is None:
            raise DataError("no pictures yet: drop a folder or several pictures")
        return self.get(key)

    def drop(self, files: Sequence[str]) -> str:
        """Store uploaded files as a gallery and return its key; DataError if none is a picture."""
        return self._store(uploaded_gallery([Path(file) for file in files]))

    def open_folder(self, folder: str) -> str:
        """Open a folder of this machine and return its key.

        Raises DataError without a readable image.
        """
        if not folder.strip():
            raise DataError("no folder: enter the path of a folder of images")
        return self._store(folder_gallery(Path(folder.strip()).expanduser()))

    def _store(self, gallery: Gallery) -> str:
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._uploaded[key] = gallery
            while len(self._uploaded) > MAX_VISITOR_GALLERIES:
                self._uploaded.popitem(last=False)
        return key
