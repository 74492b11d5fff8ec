"""Which pictures are searched: the page's own, and those that visitors brought."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from tinyclip_demo.gallery import Gallery, dropped_gallery, folder_gallery
from tinyclip_edge.errors import DataError

KEPT = 4  # of visitors; the oldest makes room


class Galleries:
    """Galleries by key; a visitor holds the key of the one that was brought."""

    def __init__(self, own: Gallery) -> None:
        self.own = own
        self._lock = threading.Lock()
        self._brought: OrderedDict[str, Gallery] = OrderedDict()

    def get(self, key: str | None) -> Gallery:
        """Return the page's own for None; raise DataError for one that made room for others."""
        if key is None:
            return self.own
        with self._lock:
            if key not in self._brought:
                raise DataError("these pictures are no longer kept: drop them again")
            self._brought.move_to_end(key)
            return self._brought[key]

    def drop(self, files: Sequence[str]) -> str:
        """Keep dropped files and return their key; raise DataError when none is a picture."""
        return self._keep(dropped_gallery([Path(file) for file in files]))

    def open_folder(self, folder: str) -> str:
        """Open a folder of this machine and return its key."""
        if not folder.strip():
            raise DataError("no folder: write the path of a folder of images")
        return self._keep(folder_gallery(Path(folder.strip()).expanduser()))

    def _keep(self, gallery: Gallery) -> str:
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._brought[key] = gallery
            while len(self._brought) > KEPT:
                self._brought.popitem(last=False)
        return key
