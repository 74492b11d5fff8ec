"""Folders that are written atomically, temporary folders of one process, and their locks.

A temporary folder is locked by its process. The operating system releases the lock when the process
ends, so a later process can recognise the leftovers of a killed one and remove them.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tinyclip_edge.errors import TinyClipError

LOCK = ".lock"
NEW, OLD = "new", "old"  # within a work folder: the new content, and the replaced one
HOLDER = re.compile(r"(?P<number>[0-9]{1,10}) (?P<host>\S{1,255})")
HOLDER_BYTES = 300
WORK = re.compile(r"\.(?P<name>.+)\.[^.]+\.partial")


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces ``folder`` when the block ends without an error.

    The old folder is removed only after the new one is flushed to disk. OSErrors are not caught.
    """
    if not folder.name:  # the working folder, or the root: it cannot be renamed
        raise OSError(errno.EBUSY, "it cannot be replaced, choose a new folder", str(folder))
    with work_folder(folder) as work:
        new = work / NEW
        new.mkdir()
        yield new
        flush(new)
        try:
            if os.path.lexists(folder):
                folder.rename(work / OLD)
            new.rename(folder)
        except BaseException:
            if os.path.lexists(work / OLD) and not os.path.lexists(folder):
                (work / OLD).rename(folder)
            raise
        _flush_folder(folder.parent)


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``target``, on the same disk.

    Leftovers of killed processes next to it are removed first. OSErrors are not caught.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target.parent)
    while True:
        work = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
        lock = _lock(work / LOCK)
        try:  # before the folder exists: a signal may end the process at any moment
            if _create_locked(work, lock):
                yield work
                return
        finally:
            lock.release()
            remove(work)


def clear_leftovers(parent: Path) -> None:
    """Remove work folders in ``parent`` whose process has ended.

    A replacement that was killed between its two renames is completed.
    """
    for work, target, lock in _abandoned(parent):
        settle(work, target)
        lock.release()
        remove(work)


def leftovers(parent: Path) -> list[Path]:
    """Return the work folders that ``clear_leftovers`` would remove."""
    works = []
    for work, _, lock in _abandoned(parent):
        lock.release()
        works.append(work)
    return works


def _abandoned(parent: Path) -> Iterator[tuple[Path, Path, FileLock]]:
    """Yield work folders whose process has ended, their targets, and their locks, now held."""
    for work in parent.glob(".*.partial"):
        match = WORK.fullmatch(work.name)
        if match is None or work.is_symlink() or not work.is_dir():
            continue
        if not (work / LOCK).is_file():  # not ours, or killed before it was locked
            with suppress(OSError):
                work.rmdir()
            continue
        lock = _lock(work / LOCK)
        try:
            lock.acquire()
        except (Timeout, OSError):
            continue
        yield work, parent / match["name"], lock


def remove(work: Path) -> None:
    """Delete a work folder, and last its lock file, which marks it as a work folder."""
    for path in work.glob("*"):
        if path.name != LOCK:
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def settle(work: Path, target: Path) -> None:
    """Complete an interrupted replacement of ``target``: move the new or the old folder there."""
    if os.path.lexists(target) or not os.path.lexists(work / OLD):
        return
    complete = work / NEW if (work / NEW).is_dir() else work / OLD
    with suppress(OSError):
        complete.rename(target)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock an existing folder against other processes for the block.

    Raises TinyClipError when another process has locked it; the lock ends with the process.
    """
    with _held(folder / LOCK, folder):
        yield


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Lock a file, which need not exist, against other processes that lock it too.

    Raises TinyClipError as ``locked`` does.
    """
    with _held(path.with_name(f".{path.name}{LOCK}"), path):
        yield


def refuse_locked(folder: Path) -> None:
    """Raise TinyClipError, naming the process, if one has locked the folder."""
    if (folder / LOCK).is_file():
        _acquired(folder / LOCK, folder).release()


@contextmanager
def _held(lock_file: Path, subject: Path) -> Iterator[None]:
    lock = _acquired(lock_file, subject)
    with suppress(OSError):  # some systems cannot write to a locked file
        lock_file.write_text(f"{os.getpid()} {socket.gethostname()}", encoding="utf-8")
    try:
        yield
    finally:
        lock.release()


def _acquired(lock_file: Path, subject: Path) -> FileLock:
    lock = _lock(lock_file)
    try:
        lock.acquire()
    except Timeout:
        holder = _holder(lock_file)
        raise TinyClipError(
            f"{subject} is in use by {holder}; wait until it ends, or choose another name"
        ) from None
    except OSError as error:
        raise TinyClipError(
            f"{subject} cannot be locked ({error.strerror or error}); choose another name"
        ) from None
    return lock


def _holder(path: Path) -> str:
    """Return the name of the process that wrote a lock file."""
    content = b""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                content = file.read(HOLDER_BYTES)
    match = HOLDER.fullmatch(content.decode("utf-8", "replace"))
    if match is None:
        return "another process"
    host_suffix = "" if match["host"] == socket.gethostname() else f" on {match['host']}"
    return f"process {match['number']}{host_suffix}"


def flush(folder: Path) -> None:
    """Flush all files of a folder to disk; OSErrors are not caught."""
    for path in folder.rglob("*"):
        if path.is_dir():
            _flush_folder(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks
            raise
    finally:
        os.close(number)


def _create_locked(work: Path, lock: FileLock) -> bool:
    """Create and lock a work folder; False if another process removed it before the lock."""
    work.mkdir(mode=0o700)
    try:
        lock.acquire()
    except (FileNotFoundError, Timeout):
        return False
    return (work / LOCK).is_file()


def _lock(path: Path) -> FileLock:
    return FileLock(path, timeout=0)
