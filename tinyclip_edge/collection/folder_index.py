"""Bring the index of folders up to date: new, changed, moved and deleted pictures."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyclip_edge.aside import locked_file
from tinyclip_edge.collection.files import (
    PictureContent,
    PictureFile,
    absolute_folders,
    frames_interval,
    inside,
    picture_reader,
    scan_folders,
    video_digest,
)
from tinyclip_edge.collection.index_report import IndexReport
from tinyclip_edge.collection.indexed_files import (
    as_index,
    frames_of_videos,
    gone_files,
    known_pictures,
    open_index,
)
from tinyclip_edge.collection.journal import IndexedFile, Journal, journal_path
from tinyclip_edge.collection.video_embedding import embed_video
from tinyclip_edge.errors import DataError, TinyClipError
from tinyclip_edge.file_aside import clear_partial_files
from tinyclip_edge.runtime.decoding import prepared
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.index_file import SkippedImage, index_path
from tinyclip_edge.runtime.indexing import PictureEncoder
from tinyclip_edge.runtime.progress import reported
from tinyclip_edge.runtime.protocol import Progress
from tinyclip_edge.runtime.vectors import Codes, int8_codes
from tinyclip_edge.runtime.video import can_read_videos
from tinyclip_edge.runtime.video_keys import is_video_name, split_key
from tinyclip_edge.units import duration

_log = logging.getLogger(__name__)

EVERY = 10.0  # seconds between the frames of a video
LEAST_EVERY = 0.1


def index_folders(
    clip: EdgeCLIP,
    folders: str | Path | Iterable[str | Path],
    into: str | Path,
    *,
    every: float = EVERY,
    progress: Progress = False,
) -> IndexReport:
    """Embed the new and changed pictures below one or several folders into an index file.

    Keys are absolute paths. A picture is unchanged if its size and modification time are; one with
    the bytes of another is not embedded again, and has moved if the other is gone. Pictures gone
    from the folders are removed, unless their folder cannot be read; others stay. Decoding is the
    index's, or ``clip``'s for a new one. Broken pictures are in ``errors``. After an interruption
    the next call continues. With the extra ``[video]``, a video has a frame every ``every`` seconds
    (``clip.mp4#t=12.0``). Raise DataError for a missing folder or no picture, BundleError for
    another model, TinyClipError if the file is locked.
    """
    if not LEAST_EVERY <= every < math.inf:
        raise DataError(f"every must be at least {LEAST_EVERY:g} seconds, not {every}")
    path = index_path(into)
    roots = absolute_folders(folders)
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}")
    with locked_file(path):
        clear_partial_files(path)
        index = open_index(path, clip)
        clip, width = clip.decoding(index.decode), clip.manifest.embedding_dim
        with Journal(journal_path(path), clip.model_hash, width, index.decode) as journal:
            return _Update(clip, index, journal, path, roots, every).run(progress)


class _Update:
    def __init__(
        self, clip: EdgeCLIP, index: ImageIndex, journal: Journal, path: Path,
        roots: Sequence[str], every: float,
    ) -> None:  # fmt: skip
        self.clip, self.index, self.journal = clip, index, journal
        self.path, self.roots, self.every = path, roots, every
        self.report = IndexReport(str(path))
        self.skipped: list[SkippedImage] = []
        self.earlier = dict(journal.files)
        self.rows = {key: row for row, key in enumerate(index.keys)}
        self.known = known_pictures(index, journal)
        self.frames = frames_of_videos(self.known)
        # Whether embeddings of the index may be reused for pictures with the same bytes.
        self.is_full = index.scales is not None and index.width is None
        self.gone: set[str] = set()
        self.by_digest: dict[bytes, str] = {}
        # Not written yet: embeddings, and keys that they replace.
        self.ready: dict[str, IndexedFile] = {}
        self.obsolete: list[str] = []

    def run(self, progress: Progress) -> IndexReport:
        start = time.perf_counter()
        files = scan_folders(self.roots, lambda path, error: self._skip(path, str(error)))
        present = {file.path for file in files}
        files = self._readable(files)
        todo = [file for file in files if not self._is_unchanged(file)]
        self.report.unchanged = len(files) - len(todo)
        took = duration(time.perf_counter() - start)
        _log.info("%s pictures in %s, %s unchanged", len(files), took, self.report.unchanged)
        self.gone = gone_files(self.known, present, self.roots, self.skipped)
        self.by_digest = self._digests()
        try:
            self._embed(todo, progress)
            self.report.deleted = len({split_key(key)[0] for key in self.gone})
            self.obsolete += self.gone
            self._write()
        except BaseException:
            if self.journal.files or self.journal.removed:
                with suppress(TinyClipError):
                    self._commit(self.index.errors)
            raise
        index = self._commit(self._errors())
        self.report.frames = sum(split_key(key)[1] is not None for key in index)
        self.report.pictures = len(index) - self.report.frames
        self.report.skipped = tuple(self.skipped)
        self.report.seconds = time.perf_counter() - start
        return self.report

    def _readable(self, files: list[PictureFile]) -> list[PictureFile]:
        """Return the files, without videos if those cannot be read; DataError if none remain."""
        videos = sum(is_video_name(file.path) for file in files)
        if not videos or can_read_videos():
            self.report.videos = videos
            return files
        self.report.unread_videos = videos
        if videos == len(files):
            raise DataError(
                f"no picture in {', '.join(self.roots)}, but {videos:,} videos: pip install "
                "'tinyclip-edge[video]' for their frames"
            )
        return [file for file in files if not is_video_name(file.path)]

    def _is_unchanged(self, file: PictureFile) -> bool:
        frames = self.frames.get(file.path)
        known = self.known.get(frames[0] if frames else file.path)
        if known is None or known.stamp != file.stamp:
            return False
        return frames is None or frames_interval(known.digest) == self.every

    def _digests(self) -> dict[bytes, str]:
        """Return a key for each digest whose embedding is known, one that is gone if possible."""
        usable = self.known if self.is_full else self.earlier
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

        pictures = [file for file in todo if not is_video_name(file.path)]
        jobs = prepared(
            pictures,
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
            videos = (file for file in todo if is_video_name(file.path))
            for done, file in enumerate(videos, len(pictures) + 1):
                self._embed_video(encoder, file)
                report(done, len(todo))

    def _embed_video(self, encoder: PictureEncoder, file: PictureFile) -> None:
        before = self.frames.get(file.path, [])
        try:
            digest = video_digest(file.path, self.every)
            entries = self._same_frames(file, digest)
            if entries is None:
                entries = embed_video(encoder, file, digest, self.every)
                self.report.changed += bool(before)
                self.report.new += not before
        except DataError as error:
            self._skip(file.path, str(error))
            entries = {}
        self.obsolete += [key for key in before if key not in entries]
        self.ready |= entries
        self._write()

    def _same_frames(self, file: PictureFile, digest: bytes) -> dict[str, IndexedFile] | None:
        """Return the embeddings of a video with the same bytes, None if there is none."""
        source = split_key(self.by_digest.get(digest, ""))[0]
        keys = self.frames.get(source, [])
        if not keys or not (self.is_full or self.earlier.keys() >= set(keys)):
            return None
        size, mtime_ns = file.stamp
        entries = {
            file.path + key[len(source) :]: self._entry(key)._replace(size=size, mtime_ns=mtime_ns)
            for key in keys
        }
        if source == file.path:
            self.report.unchanged += 1
        elif self.gone.issuperset(keys):
            self.gone.difference_update(keys)
            self.obsolete += keys
            self.report.moved += 1
        else:
            self.report.new += not self.frames.get(file.path)
            self.report.changed += bool(self.frames.get(file.path))
        return entries

    def _put(self, content: PictureContent, code: Codes, scale: float) -> None:
        path, (size, mtime_ns) = content.file
        if path in self.known:
            self.report.changed += 1
        else:
            self.report.new += 1
        self.ready[path] = IndexedFile(size, mtime_ns, content.digest, code, scale)

    def _put_same(self, content: PictureContent) -> None:
        """Reuse the embedding of a picture with the same bytes."""
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
        self.ready[path] = self._entry(source)._replace(size=size, mtime_ns=mtime_ns)

    def _entry(self, key: str) -> IndexedFile:
        if key in self.earlier:
            return self.earlier[key]
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
            index = index.merge(as_index(files, index), on_duplicate="last")
        elif (errors, bundle) == (self.index.errors, self.index.bundle) and self.path.exists():
            return index
        index.save(self.path)
        self.journal.delete()
        return index
