"""Bring the index of folders up to date: new, changed, moved and deleted pictures."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyclip_edge.aside import locked_file
from tinyclip_edge.collection.files import (
    KnownPicture,
    PictureContent,
    PictureFile,
    Stamp,
    absolute,
    inside,
    picture_reader,
    scan_folders,
)
from tinyclip_edge.collection.journal import DIGEST_BYTES, IndexedFile, Journal, journal_path
from tinyclip_edge.errors import BundleError, DataError, TinyClipError
from tinyclip_edge.file_aside import clear_partial_files
from tinyclip_edge.runtime.decoding import prepared
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.index_file import FILE_STAMP, SkippedImage, index_path
from tinyclip_edge.runtime.progress import reported
from tinyclip_edge.runtime.protocol import Progress
from tinyclip_edge.runtime.vectors import Codes, int8_codes
from tinyclip_edge.units import duration

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class IndexReport:
    """What an update did; numbers are of pictures."""

    index: str  # path
    pictures: int = 0  # in the index
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


def index_folders(
    clip: EdgeCLIP,
    folders: Iterable[str | Path],
    into: str | Path,
    *,
    progress: Progress = False,
) -> IndexReport:
    """Embed the pictures below folders into an index file, those that are not in it as they are.

    Keys are absolute paths. A picture is unchanged if its size and modification time are; one with
    the bytes of another is not embedded again, and has moved if the other is gone. Pictures below
    the folders that are gone are removed, except where a folder cannot be read; others are left
    alone. Broken ones are listed in ``errors``. Interrupted at any moment, the next call continues.
    Raise DataError for a folder that is missing or without pictures, BundleError for an index of
    another model, TinyClipError while another process writes it.
    """
    path = index_path(into)
    roots = [absolute(folder) for folder in folders]
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}")
    with locked_file(path):
        clear_partial_files(path)
        index = _open(path, clip)
        with Journal(journal_path(path), clip.model_hash, clip.manifest.embedding_dim) as journal:
            return _Update(clip, index, journal, path, roots).run(progress)


def _open(path: Path, clip: EdgeCLIP) -> ImageIndex:
    if not path.exists():
        width = clip.manifest.embedding_dim
        empty = np.empty((0, width), np.int8), np.empty(0, np.float32)
        return ImageIndex((), empty[0], clip.model_hash, empty[1])
    index = ImageIndex.load(path)
    try:
        index.require(clip.model_hash)
    except BundleError as error:
        raise BundleError(f"{path}: {error}, into another file") from None
    return index


class _Update:
    def __init__(
        self, clip: EdgeCLIP, index: ImageIndex, journal: Journal, path: Path, roots: Sequence[str]
    ) -> None:
        self.clip, self.index, self.journal = clip, index, journal
        self.path, self.roots = path, roots
        self.report = IndexReport(str(path))
        self.skipped: list[SkippedImage] = []
        self.earlier = dict(journal.files)
        self.rows = {key: row for row, key in enumerate(index.keys)}
        self.known = self._known()
        self.gone: set[str] = set()
        self.by_digest: dict[bytes, str] = {}
        # Not written yet: embeddings, and keys that they replace.
        self.ready: dict[str, IndexedFile] = {}
        self.obsolete: list[str] = []

    def run(self, progress: Progress) -> IndexReport:
        start = time.perf_counter()
        files = scan_folders(self.roots, lambda path, error: self._skip(path, str(error)))
        todo = [file for file in files if not self._is_unchanged(file)]
        self.report.unchanged = len(files) - len(todo)
        took = duration(time.perf_counter() - start)
        _log.info("%s pictures in %s, %s unchanged", len(files), took, self.report.unchanged)
        self.gone = self._gone({file.path for file in files})
        self.by_digest = self._digests()
        try:
            self._embed(todo, progress)
            self.report.deleted = len(self.gone)
            self.obsolete += self.gone
            self._write()
        except BaseException:
            if self.journal.files or self.journal.removed:
                with suppress(TinyClipError):
                    self._commit(self.index.errors)
            raise
        index = self._commit(self._errors())
        self.report.pictures = len(index)
        self.report.skipped = tuple(self.skipped)
        self.report.seconds = time.perf_counter() - start
        return self.report

    def _known(self) -> dict[str, KnownPicture]:
        known: dict[str, KnownPicture] = {}
        if self.index.files is not None:
            digests = self.index.files["digest"].tobytes()
            sizes, times = (self.index.files[name].tolist() for name in ("size", "mtime_ns"))
            for row, key in enumerate(self.index.keys):
                digest = digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)]
                known[key] = KnownPicture(Stamp(sizes[row], times[row]), digest)
        for key in self.journal.removed:
            known.pop(key, None)
        for key, entry in self.journal.files.items():
            known[key] = KnownPicture(Stamp(entry.size, entry.mtime_ns), entry.digest)
        return known

    def _is_unchanged(self, file: PictureFile) -> bool:
        known = self.known.get(file.path)
        return known is not None and known.stamp == file.stamp

    def _gone(self, present: set[str]) -> set[str]:
        below = tuple(map(inside, self.roots))
        unread = tuple(inside(entry.key) for entry in self.skipped)
        return {
            key
            for key in self.known.keys() - present
            if key.startswith(below) and not f"{key}{os.sep}".startswith(unread)
        }

    def _digests(self) -> dict[bytes, str]:
        """Return a key of each content whose embedding is known, one that is gone if possible."""
        full = self.index.scales is not None and self.index.width is None
        usable = self.known if full else self.earlier
        digests = {self.known[key].digest: key for key in usable}
        return digests | {self.known[key].digest: key for key in self.gone if key in usable}

    def _embed(self, todo: Sequence[PictureFile], progress: Progress) -> None:
        encoder = self.clip.picture_encoder()
        contents: list[PictureContent] = []

        def embed() -> None:
            pixels = [content.pixels for content in contents if content.pixels is not None]
            if pixels:
                codes, scales = int8_codes(encoder.tower(np.stack(pixels)))
                for content, code, scale in zip(contents, codes, scales, strict=True):
                    self._put(content, code, float(scale))
                contents.clear()
            self._write()

        jobs = prepared(
            todo,
            picture_reader(encoder.preprocess, self.by_digest.keys()),
            threads=encoder.threads,
            ahead=2 * encoder.batch,
        )
        with reported(progress, "pictures") as report:
            for done, (file, result) in enumerate(jobs, 1):
                if isinstance(result, DataError):
                    self._skip(file.path, str(result))
                elif result.pixels is None:
                    self._put_same(result)
                else:
                    contents.append(result)
                if max(len(contents), len(self.ready), len(self.obsolete)) >= encoder.batch:
                    embed()
                report(done, len(todo))
            embed()

    def _put(self, content: PictureContent, code: Codes, scale: float) -> None:
        path, (size, mtime_ns) = content.file
        if path in self.known:
            self.report.changed += 1
        else:
            self.report.new += 1
        self.ready[path] = IndexedFile(size, mtime_ns, content.digest, code, scale)

    def _put_same(self, content: PictureContent) -> None:
        """Take the embedding of a picture with the same bytes."""
        path, (size, mtime_ns) = content.file
        source = self.by_digest[content.digest]
        if path in self.known:
            same = self.known[path].digest == content.digest
            self.report.unchanged += same
            self.report.changed += not same
        elif source in self.gone:
            self.gone.discard(source)
            self.obsolete.append(source)
            self.report.moved += 1
        else:
            self.report.new += 1
        entry = self.earlier.get(source) or self._stored(source)
        self.ready[path] = entry._replace(size=size, mtime_ns=mtime_ns)

    def _stored(self, key: str) -> IndexedFile:
        assert self.index.scales is not None
        row = self.rows[key]
        code, scale = self.index.features[row], float(self.index.scales[row])
        return IndexedFile(0, 0, self.known[key].digest, np.asarray(code, np.int8), scale)

    def _skip(self, path: str, reason: str) -> None:
        if not os.path.lexists(path):  # deleted meanwhile
            return
        self.skipped.append(SkippedImage(path, reason))
        if path in self.known:
            self.obsolete.append(path)

    def _write(self) -> None:
        self.journal.write(self.ready, self.obsolete)
        self.ready.clear()
        self.obsolete.clear()

    def _errors(self) -> tuple[SkippedImage, ...]:
        below = tuple(map(inside, self.roots))
        elsewhere = [entry for entry in self.index.errors if not entry.key.startswith(below)]
        return tuple(sorted({*elsewhere, *self.skipped}))

    def _commit(self, errors: tuple[SkippedImage, ...]) -> ImageIndex:
        files, bundle = self.journal.files, str(self.clip.folder.absolute())
        index = replace(self.index, errors=errors, bundle=bundle)
        if files or self.journal.removed:
            unwanted = self.journal.removed
            index = index[np.array([key not in unwanted for key in index.keys], dtype=bool)]
            index = index.merge(_as_index(files, index), on_duplicate="last")
        elif (errors, bundle) == (self.index.errors, self.index.bundle) and self.path.exists():
            return index
        index.save(self.path)
        self.journal.delete()
        return index


def _as_index(files: Mapping[str, IndexedFile], like: ImageIndex) -> ImageIndex:
    width = like.width or like.features.shape[1]
    stamps = np.zeros(len(files), FILE_STAMP)
    stamps["size"] = [entry.size for entry in files.values()]
    stamps["mtime_ns"] = [entry.mtime_ns for entry in files.values()]
    digests = b"".join(entry.digest for entry in files.values())
    stamps["digest"] = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)
    codes = [np.empty((0, width), np.int8), *(entry.code[None] for entry in files.values())]
    return ImageIndex(
        tuple(files),
        np.concatenate(codes),
        like.model_hash,
        np.array([entry.scale for entry in files.values()], np.float32),
        files=stamps,
    )
