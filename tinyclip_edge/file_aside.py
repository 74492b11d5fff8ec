"""One file that is written under another name first, so that readers never see half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tinyclip_edge.errors import DataError


@contextmanager
def file_written_aside(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that replaces ``path``, flushed to disk, unless the block fails.

    Raise DataError if writing fails; the file at ``path`` is then unchanged.
    """
    aside = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        try:
            with aside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def partial_files(path: Path) -> list[Path]:
    """Return the unfinished files for ``path`` of killed or running processes."""
    begun = path.parent.glob(".*.partial")
    return [one for one in begun if one.name.startswith(f".{path.name}.") and not one.is_dir()]


def clear_partial_files(path: Path) -> None:
    """Remove unfinished files for ``path``; only the one process that writes it may call this."""
    for aside in partial_files(path):
        aside.unlink(missing_ok=True)
