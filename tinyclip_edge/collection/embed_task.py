"""Embed one shard into one parquet file; the task can be sent to any process."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinyclip_edge.collection.shard_units import Unit
from tinyclip_edge.collection.unit_steps import run_steps
from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.runtime.decode_modes import EXACT
from tinyclip_edge.runtime.decoding import prepared
from tinyclip_edge.runtime.devices import CPU
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.index_keys import check_utf8
from tinyclip_edge.runtime.indexing import PictureEncoder
from tinyclip_edge.runtime.parquet_header import FileHeader
from tinyclip_edge.runtime.parquet_rows import Captions, ParquetWriter, parquet_file
from tinyclip_edge.runtime.protocol import Features

CHUNK = 256  # pictures whose captions are embedded, and whose rows are written, together
NAMED_FAULTS = 20  # faults named in a file; the others are only counted


class UnitResult(NamedTuple):
    """The content of a file, in numbers."""

    pictures: int
    captions: int
    unusable: int  # samples
    faults: tuple[str, ...]  # of the first unusable samples
    notes: tuple[str, ...] = ()  # on truncated shards

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**self._asdict(), "faults": list(self.faults), "notes": list(self.notes)}


class ModelFiles(NamedTuple):
    """A bundle and how it is opened, for another process."""

    folder: str
    precision: str
    model_hash: str
    threads: int | None
    decode: str = EXACT
    device: str = CPU
    device_options: tuple[tuple[str, str], ...] = ()


Steps: TypeAlias = "Generator[int, None, UnitResult]"  # pictures since the last step


@dataclass(frozen=True, slots=True)
class EmbedTask:
    """The work on one unit; it can be sent to other processes."""

    model: ModelFiles
    out: str
    dtype: str

    def steps(self, unit: Unit) -> Steps:
        """Embed a unit, yield the number of pictures of each step; raise TinyClipError."""
        clip = _open(self.model)
        header = FileHeader(
            self.model.model_hash,
            self.model.precision,
            clip.manifest.embedding_dim,
            self.dtype,
            decode=self.model.decode,
            about={"model": clip.name, "source": unit.source, "mark": unit.mark},
        )
        with parquet_file(Path(self.out, unit.name), header, captions=True) as file:
            shard = _Shard(clip, file, unit.source)
            yield from shard.embed(unit)
            result = shard.result()
            file.close(result=result.as_dict())
        return result

    def run(self, unit: Unit) -> UnitResult:
        """Embed a unit without reporting progress."""
        return run_steps(self.steps(unit))


@lru_cache(maxsize=1)
def _open(model: ModelFiles) -> EdgeCLIP:
    clip = EdgeCLIP.load(
        model.folder,
        precision=model.precision,
        threads=model.threads,
        decode=model.decode,
        device=model.device,
        device_options=dict(model.device_options),
    )
    if clip.model_hash != model.model_hash:  # on another machine, or replaced meanwhile
        raise BundleError(
            f"bundle {model.folder} is model {clip.model_hash} here, not {model.model_hash}; copy "
            "the same bundle to all machines"
        )
    return clip


@dataclass(slots=True)
class _Shard:
    clip: EdgeCLIP
    file: ParquetWriter
    source: str
    losses: Losses = field(default_factory=Losses)
    undecodable: list[str] = field(default_factory=list)
    pictures: int = 0
    captions: int = 0
    unreadable: int = 0  # pictures

    def embed(self, unit: Unit) -> Generator[int, None, None]:
        encoder = self.clip.picture_encoder()
        if self.clip.threads is not None:
            encoder = encoder._replace(threads=min(encoder.threads, self.clip.threads))
        pairs = unit.pairs(self.losses)
        while chunk := list(islice(pairs, CHUNK)):
            self._write(chunk, encoder)
            yield len(chunk)

    def _write(self, chunk: list[Pair], encoder: PictureEncoder) -> None:
        usable: list[Pair] = []
        features: list[Features] = [np.empty((0, encoder.width), np.float32)]
        for pairs, pixels in _batches(self._decoded(chunk, encoder), encoder.batch):
            usable += pairs
            features.append(encoder.tower(pixels))
        texts = [pair.captions for pair in usable]
        flat = [text for row in texts for text in row]
        self.file.write(
            [pair.key for pair in usable],
            np.concatenate(features),
            metadata=[pair.meta for pair in usable],
            captions=Captions(texts, self.clip.encode_text(flat)),
        )
        self.pictures += len(usable)
        self.captions += len(flat)

    def _decoded(
        self, chunk: list[Pair], encoder: PictureEncoder
    ) -> Generator[tuple[Pair, Features], None, None]:
        def preprocess(pair: Pair) -> Features:
            check_utf8([pair.key])  # parquet holds nothing else
            return encoder.preprocess(pair.image, f"{pair.key} of {self.source}")

        results = prepared(
            chunk,
            preprocess,
            threads=encoder.threads,
            ahead=2 * encoder.batch,
        )
        for pair, result in results:
            if isinstance(result, DataError):
                self.unreadable += 1
                if len(self.undecodable) < NAMED_FAULTS:
                    self.undecodable.append(str(result))
            else:
                yield pair, result

    def result(self) -> UnitResult:
        faults = (*self.undecodable, *islice(self.losses.faults, NAMED_FAULTS))
        return UnitResult(
            self.pictures,
            self.captions,
            self.unreadable + self.losses.unusable,
            faults[:NAMED_FAULTS],
            tuple(self.losses.cut_lines()),
        )


def _batches(
    rows: Iterable[tuple[Pair, Features]], size: int
) -> Generator[tuple[list[Pair], Features], None, None]:
    waiting = iter(rows)
    while batch := list(islice(waiting, size)):
        yield [pair for pair, _ in batch], np.stack([pixels for _, pixels in batch])
