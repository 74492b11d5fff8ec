"""Check untrusted paths, and read files of bounded size.

pathlib raises for a name that is too long or has a null byte; here such a file is just missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

from tinyclip_edge.errors import DataError, ModelError, TinyClipError
from tinyclip_edge.limits import TEXTS_BYTES

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def expanded(path: str | Path) -> str:
    """Return a path with ``~`` and ``$NAME`` expanded, unless it exists as written."""
    if os.path.lexists(path):
        return str(path)
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111


def is_file(path: Path) -> bool:
    """Whether the path is a file, or a link to one."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether the path is a folder, or a link to one."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: Path) -> bool:
    """Whether the path exists."""
    return os.path.exists(path)  # noqa: PTH110


def model_name(model: str | Path) -> str:
    """Return the name under which every command shows a model.

    For a folder its own name, but the run's name for a run's ``student``, and ``owner/name`` for a
    revision in Hugging Face's cache; other models are shown as written.
    """
    path = Path(expanded(model))
    if not is_folder(path):
        return str(model)
    path = Path(os.path.abspath(path))  # noqa: PTH100 - a link has a name of its own
    if path.name == "student" and not is_file(path / "manifest.json"):  # a run's, not a bundle
        return path.parent.name
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return path.name or str(model)


def files_below(
    folder: Path,
    error: type[TinyClipError],
    *,
    on_unreadable: Callable[[Path, TinyClipError], None] | None = None,
) -> Iterator[str]:
    """Yield the relative paths of all files below a folder; links are followed.

    Hidden folders, pipes and devices are left out. For a folder that cannot be read, raises
    ``error`` or, if there is one, calls ``on_unreadable``.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        inner, above = pending.pop()
        try:
            stat = (folder / inner).stat()
            identity = stat.st_dev, stat.st_ino
            if identity in above:  # a link back to an enclosing folder
                continue
            with os.scandir(folder / inner) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as fault:
            refusal = error(f"cannot read folder {folder / inner}: {fault.strerror}")
            if on_unreadable is None:
                raise refusal from None
            on_unreadable(folder / inner, refusal)
            continue
        for entry in entries:
            if _is_folder(entry):
                if not entry.name.startswith("."):
                    pending.append((f"{inner}{entry.name}/", above | {identity}))
            # A broken link too: the caller reports it as a missing file.
            elif entry.is_symlink() or entry.is_file():
                yield f"{inner}{entry.name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def stays_inside(folder: str | Path, name: str) -> bool:
    """Whether the file ``name`` of a folder is really there, not a link to elsewhere.

    Only the links of Hugging Face's cache are accepted: its snapshots are folders of links into
    the ``blobs`` beside them.
    """
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(Path(folder, name)))
    cached = root.parent.name == "snapshots" and real.parent == root.parent.parent / "blobs"
    return real == Path(root, *PurePosixPath(name).parts) or cached


def refuse_links(
    folder: Path, error: type[TinyClipError], *, replaced: Collection[str] = ()
) -> None:
    """Raise ``error`` for a link, pipe or device in a folder that is about to be written to.

    The folder itself may be a link. ``replaced`` names folders in it that are not checked, because
    they are replaced as a whole.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in replaced]
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() or not (is_file(path) or is_folder(path)):
                raise error(
                    f"{path} leads to another place, which would be written to; copy the folder as "
                    "plain files (cp -rL), or link the folder as a whole"
                )


def refuse_pointer(path: Path, error: type[TinyClipError]) -> None:
    """Raise ``error`` if a file is a Git LFS pointer instead of the content."""
    if not is_file(path):
        return
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    except (OSError, ValueError):
        return
    if is_pointer:
        raise error(
            f"{path} is a Git LFS pointer, not the content; run `git lfs pull` in its folder"
        )


def read_bounded(path: Path, error: type[TinyClipError], *, limit: int) -> bytes:
    """Return the bytes of a file; ``error`` if it is missing or has more than ``limit`` bytes."""
    try:
        if exists(path) and not is_file(path):  # opening a pipe would block
            raise error(f"cannot read {path}: it is not a file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise error(f"no file {path}") from None
    except (OSError, ValueError) as fault:  # ValueError: a null byte in the name
        raise error(f"cannot read {path}: {getattr(fault, 'strerror', None) or fault}") from None
    if len(content) > limit:
        raise error(f"cannot read {path}: it has more than {limit:,} bytes")
    if content.startswith(LFS_POINTER):
        refuse_pointer(path, error)
    return content


def read_lines(path: Path, kind: str) -> tuple[str, ...]:
    """Return the non-blank lines of a text file; DataError if there are none."""
    try:
        text = read_bounded(path, DataError, limit=TEXTS_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"cannot read {kind} file {path}: it is not UTF-8") from None
    entries = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not entries:
        raise DataError(f"{kind} file {path} is empty; write one per line")
    return entries


def free_folder(parent: Path, name: str) -> Path:
    """Return ``parent/name``, or the first ``parent/name-2``, ``-3`` … that does not exist yet."""
    folder, number = parent / name, 2
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    return folder


def require_empty(folder: Path) -> None:
    """Raise ModelError unless the folder is absent or empty, to protect a trained student."""
    try:
        occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise ModelError(f"cannot write {folder}: {error.strerror or error}") from error
    if occupied:
        raise ModelError(f"{folder} is not empty; choose a new folder with --out")
