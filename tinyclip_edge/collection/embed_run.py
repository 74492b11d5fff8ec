"""The state of embedding many shards: what is complete, what failed, how much remains."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tinyclip_edge.aside import locked
from tinyclip_edge.collection.embed_engines import (
    Event,
    Outcome,
    default_threads,
    embed_here,
    embed_in_processes,
    embed_on_cluster,
)
from tinyclip_edge.collection.embed_task import EmbedTask, ModelFiles, UnitResult
from tinyclip_edge.collection.embedding import EmbedReport
from tinyclip_edge.collection.failed_units import MOST_FAILED, failed_units
from tinyclip_edge.collection.shard_units import Unit, units_of
from tinyclip_edge.config.source_options import SourceOptions
from tinyclip_edge.data.opening import open_source
from tinyclip_edge.data.pairs import BAD_SHARE, STREAM_MINIMUM
from tinyclip_edge.data.source import PairSource
from tinyclip_edge.errors import (
    BundleError,
    DataError,
    MissingExtraError,
    one_line,
)
from tinyclip_edge.limits import is_count
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.parquet_header import FileHeader
from tinyclip_edge.runtime.parquet_rows import read_header
from tinyclip_edge.runtime.progress import reported
from tinyclip_edge.runtime.protocol import Progress
from tinyclip_edge.units import counted

NAMED = 3  # faults in a message


def embed_into(
    clip: EdgeCLIP,
    sources: Sequence[str],
    folder: Path,
    *,
    dtype: str,
    workers: int,
    dask: str | None,
    progress: Progress,
) -> EmbedReport:
    """Embed sources into an absolute folder; see ``embed_shards``."""
    source = open_source(sources, SourceOptions(captionless=True))
    units = units_of(source.parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from error
    threads = clip.threads or (1 if dask else default_threads(workers))
    model = ModelFiles(
        str(clip.folder.absolute()),
        clip.precision,
        clip.model_hash,
        threads,
        clip.decode,
        clip.device.name,
        tuple(clip.device.options.items()),
    )
    task = EmbedTask(model, str(folder), dtype)
    with locked(folder):
        clear_partial_files(folder)
        run = _Run(task, source, units, folder)
        todo = run.todo()
        try:
            return run.embed(_events(task, todo, workers, dask), progress)
        finally:
            clear_partial_files(folder)


def _events(
    task: EmbedTask, units: Sequence[Unit], workers: int, dask: str | None
) -> Iterator[Event[UnitResult]]:
    if units and dask is not None:
        return embed_on_cluster(task, units, dask)
    if units and workers > 1:
        return embed_in_processes(task, units, workers)
    return embed_here(task, units)


def clear_partial_files(folder: Path) -> None:
    """Remove unfinished files; only the one process that writes to the folder may call this."""
    for aside in folder.glob(".*.parquet.*.partial"):
        if not aside.is_dir():
            aside.unlink(missing_ok=True)


@dataclass(slots=True)
class _Run:
    task: EmbedTask
    source: PairSource
    units: Sequence[Unit]
    folder: Path
    results: dict[str, UnitResult] = field(default_factory=dict)  # by mark
    stale: dict[str, list[Path]] = field(default_factory=dict)  # old files, by source
    failed: list[Outcome[UnitResult]] = field(default_factory=list)
    under_way: Counter[str] = field(default_factory=Counter)  # pictures done, by mark
    embedded: int = 0

    def todo(self) -> list[Unit]:
        """Return the units that have no file; raise BundleError for files of another model."""
        marks = {unit.mark for unit in self.units}
        sources = {unit.source for unit in self.units}
        for path in sorted(self.folder.glob("*.parquet")):
            header = read_header(path)
            self._require_same(path, header)
            mark, result = header.about.get("mark"), _result(header)
            if mark in marks and result is not None:
                self.results[mark] = result
            elif header.about.get("source") in sources:
                self.stale.setdefault(header.about["source"], []).append(path)
        for unit in self.units:
            if unit.mark in self.results:
                self._remove_stale(unit)
        return [unit for unit in self.units if unit.mark not in self.results]

    def _require_same(self, path: Path, header: FileHeader) -> None:
        if header.model_hash != self.task.model.model_hash:
            raise BundleError(
                f"{path} was made by model {header.model_hash}, but this is "
                f"{self.task.model.model_hash}; choose another folder for --out"
            )
        if header.decode != self.task.model.decode:
            raise BundleError(
                f"{path} was made with --decode {header.decode}, not {self.task.model.decode}; "
                f"choose another folder for --out, or --decode {header.decode}"
            )
        if header.dtype != self.task.dtype:
            raise DataError(
                f"{path} has vectors of {header.dtype}, not {self.task.dtype}; choose another "
                f"folder for --out, or --dtype {header.dtype}"
            )

    def embed(self, events: Iterator[Event[UnitResult]], progress: Progress) -> EmbedReport:
        start = time.perf_counter()
        whole = len(self.results)
        with closing(events) as open_events, reported(progress, "pictures") as report:  # type: ignore[type-var]
            self._report(report)
            for event in open_events:
                if isinstance(event, Outcome):
                    self._end(event)
                    self.check(final=False)
                else:
                    self.under_way[event.unit.mark] += event.pictures
                self._report(report)
        self.check(final=True)
        if self.failed:
            raise failed_units(self.failed, len(self.units), "embedded")
        results = self.results.values()
        return EmbedReport(
            str(self.folder),
            len(self.units),
            whole,
            sum(result.pictures for result in results),
            sum(result.captions for result in results),
            self.unusable,
            tuple(self.notes()),
            self.embedded,
            time.perf_counter() - start,
        )

    def _report(self, report: Callable[[int, int | None], None]) -> None:
        done = sum(result.pictures + result.unusable for result in self.results.values())
        total = self._total()
        done += self.under_way.total()
        report(done, None if total is None else max(done, total))

    def _end(self, outcome: Outcome[UnitResult]) -> None:
        del self.under_way[outcome.unit.mark]
        if outcome.result is None:
            self.failed.append(outcome)
            if isinstance(outcome.error, (BundleError, MissingExtraError)):
                raise outcome.error
            if len(self.failed) == MOST_FAILED:
                raise failed_units(self.failed, len(self.units), "embedded")
            return
        path = self.folder / outcome.unit.name
        if not path.is_file():
            raise DataError(
                f"{path} was written on another machine; --out must be a folder that all machines "
                "share"
            )
        self.results[outcome.unit.mark] = outcome.result
        self.embedded += outcome.result.pictures
        self._remove_stale(outcome.unit)

    def _remove_stale(self, unit: Unit) -> None:
        for path in self.stale.pop(unit.source, []):
            path.unlink(missing_ok=True)

    def _total(self) -> int | None:
        """Return the number of pictures, estimated from bytes for shards not read yet."""
        total, unread, pictures, read = 0, 0, 0, 0
        for unit in self.units:
            result, size = self.results.get(unit.mark), unit.size
            if result is not None:
                total += result.pictures + result.unusable
                pictures += result.pictures + result.unusable
                read += size or 0
            elif unit.pictures is not None:
                total += unit.pictures
            elif size is None:
                return None
            else:
                unread += size
        if not unread:
            return total
        return total + round(unread * pictures / read) if read else None

    @property
    def unusable(self) -> int:
        return self.source.losses.unusable + sum(
            result.unusable for result in self.results.values()
        )

    def check(self, *, final: bool) -> None:
        """Raise DataError if too many samples are unusable; early on, wait for enough samples."""
        samples = self.unusable + sum(result.pictures for result in self.results.values())
        if self.unusable <= BAD_SHARE * samples or (not final and samples < STREAM_MINIMUM):
            return
        raise DataError(
            f"{self.source.name}: {self.unusable:,} of {samples:,} samples cannot be used (at most "
            f"{BAD_SHARE:.0%} may be skipped): {self._faults()}"
        )

    def notes(self) -> Iterator[str]:
        for unit in self.units:
            yield from self.results[unit.mark].notes
        if self.unusable:
            samples = counted(self.unusable, "sample")
            yield f"skipped {samples} that cannot be used: {self._faults()}"

    def _faults(self) -> str:
        lines = list(self.source.losses.faults)
        for unit in self.units:
            if (result := self.results.get(unit.mark)) is not None:
                lines += [*result.faults, *result.notes]
        more = self.unusable - len(lines[:NAMED])
        return "; ".join(lines[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _result(header: FileHeader) -> UnitResult | None:
    table = header.about.get("result")
    with suppress(TypeError, ValueError):
        counts = [table[name] for name in ("pictures", "captions", "unusable")]  # type: ignore[index]
        texts = [
            tuple(one_line(line) for line in table[name])  # type: ignore[index]
            for name in ("faults", "notes")
        ]
        if all(is_count(count, minimum=0) for count in counts):
            return UnitResult(*counts, *texts)
    return None
