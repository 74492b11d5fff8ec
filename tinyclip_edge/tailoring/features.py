"""The teacher's features of all pictures, computed once for near-duplicates, labels and all runs.

N pictures, M texts, C labels, width D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tinyclip_edge.data import FeatureStore, PairSource, PartFeatures
from tinyclip_edge.data.marks import MARK, caption_mark, sample_mark
from tinyclip_edge.data.pairs import Halves
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import Features

if TYPE_CHECKING:
    from tinyclip_edge.train.tasks.teacher import Teacher

BATCH = 64


@dataclass(frozen=True, slots=True)
class PictureFeatures:
    """Features of the readable pictures, in the order of ``paths``; half precision, as cached."""

    paths: tuple[str, ...]
    rows: Halves  # [N, D]
    unreadable: tuple[str, ...] = ()

    @property
    def unit(self) -> Features:
        """The rows at unit norm, float32."""
        rows = self.rows.astype(np.float32)
        unit: Features = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def save(self, path: Path) -> None:
        """Write the features into one file. Raises DataError if it cannot be written."""
        from tinyclip_edge.file_aside import file_written_aside

        with file_written_aside(path) as file:
            np.savez(
                file,
                rows=self.rows,
                paths=np.array(self.paths, dtype=np.str_),
                unreadable=np.array(self.unreadable, dtype=np.str_),
            )

    @classmethod
    def load(cls, path: Path) -> PictureFeatures | None:
        """Return what ``save`` wrote; None if there is no file. Raises DataError."""
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                paths, unreadable = (
                    tuple(map(str, arrays[key])) for key in ("paths", "unreadable")
                )
                return cls(paths, arrays["rows"].astype(np.float16), unreadable)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it to compute it again") from None


def encode_pictures(
    teacher: Teacher,
    paths: Sequence[str],
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> PictureFeatures:
    """Encode pictures as a run with this teacher does; undecodable ones are left out."""
    known: list[str] = []
    unreadable: list[str] = []
    rows: list[Halves] = []
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            pixels = dict(zip(batch, pool.map(teacher.codec.decode, map(Path, batch)), strict=True))
            decoded = [pixel for pixel in pixels.values() if pixel is not None]
            known += [path for path, pixel in pixels.items() if pixel is not None]
            unreadable += [path for path, pixel in pixels.items() if pixel is None]
            if decoded:
                features = teacher.encode_images(torch.stack(decoded))
                rows.append(features.to("cpu", torch.float16).numpy())
            if progress is not None:
                progress(start + len(batch), len(paths))
    width = teacher.embedding_dim
    stacked = np.concatenate(rows) if rows else np.zeros((0, width), dtype=np.float16)
    return PictureFeatures(tuple(known), stacked, tuple(unreadable))


def fill_store(
    store: FeatureStore, source: PairSource, pictures: PictureFeatures, teacher: Teacher
) -> None:
    """Write the features of a source's pictures and texts into the cache that the runs read.

    Raises DataError if it cannot be written.
    """
    store.create()
    place = {path: number for number, path in enumerate(pictures.paths)}
    texts = () if source.texts is None else source.texts.parts
    for part in source.parts:
        pairs = list(part)
        rows = np.array([place[str(pair.image)] for pair in pairs], dtype=np.int64)
        marks = [sample_mark(pair) for pair in pairs]
        store.save(part, _part(pictures.rows[rows], marks, pictures.rows[:0], []))
    for part in texts:
        encoded = teacher.encode_texts(part.texts).to("cpu", torch.float16).numpy()
        marks = [caption_mark(text) for text in part.texts]
        store.save(part, _part(pictures.rows[:0], [], encoded, marks))


def _part(
    images: Halves, samples: list[bytes], texts: Halves, captions: list[bytes]
) -> PartFeatures:
    return PartFeatures(
        image=images[:, None],
        seeds=np.zeros((len(images), 0), dtype=np.int64),
        samples=_marks(samples),
        text=texts,
        captions=_marks(captions),
    )


def _marks(marks: list[bytes]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(marks), dtype=np.uint8).reshape(-1, MARK)
