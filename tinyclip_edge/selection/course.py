"""The steps of a selection: read, weigh, draw, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinyclip_edge.aside import locked
from tinyclip_edge.collection.shard_units import unit_mark, units_of
from tinyclip_edge.data.opening import open_named
from tinyclip_edge.data.selected_part import PartName
from tinyclip_edge.data.selection_file import Choice, write_selection
from tinyclip_edge.data.source import PairSource
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.progress import reported
from tinyclip_edge.selection.caption_task import CaptionTask
from tinyclip_edge.selection.drawing import Drawing, Mask
from tinyclip_edge.selection.hashed_set import HashedSet
from tinyclip_edge.selection.request import Request, SelectionReport
from tinyclip_edge.selection.weighing import Floats, Weighing

if TYPE_CHECKING:
    from tinyclip_edge.selection.space import TeacherSpace


def select_pairs(request: Request) -> SelectionReport:
    """Select pairs and write their index; see ``select``."""
    began = time.perf_counter()
    source, names = open_named(request.sources)
    try:
        request.work.mkdir(parents=True, exist_ok=True)
        request.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {request.out}: {error.strerror or error}") from error
    with locked(request.work):
        for aside in request.work.glob(".*.npz.*.partial"):  # of killed processes
            aside.unlink(missing_ok=True)
        task = CaptionTask(str(request.work), request.hashing, request.uses_teacher)
        course = _Course(request, source, names, HashedSet(task, source, units_of(source.parts)))
        return course.run(began)


@dataclass(slots=True)
class _Course:
    request: Request
    source: PairSource
    names: Sequence[PartName]
    pairs: HashedSet
    space: TeacherSpace | None = None
    target: Floats | None = None
    passed: int = 0  # near-duplicates that were skipped

    def run(self, began: float) -> SelectionReport:
        request, pairs = self.request, self.pairs
        self._open_teacher()
        pairs.fill(request.workers, request.cluster, request.progress)
        self._require(pairs.pairs)
        if self.space is not None:
            self._embed_set()
        weighing = Weighing.fit(request, pairs, self.space, self.target)
        drawing = Drawing.of(request.work, pairs, weighing, request.seed)
        self._require(drawing.usable)
        draw = self._drawn(drawing)
        total = 0.0
        for mask, weights in zip(draw(), drawing.weights(), strict=True):
            total += float(weights[mask].sum())
        about = {
            "pairs": request.count,
            "of": pairs.pairs,
            "seed": request.seed,
            "buckets": request.hashing.buckets,
            "words": request.hashing.longest,
            "smoothing": request.smoothing,
            "target_texts": len(request.texts),
            "target_images": len(request.pictures),
            "near_duplicates": request.near_duplicates,
        }
        write_selection(request.out, about, self._choices(draw()))
        losses = self.source.losses
        return SelectionReport(
            out=str(request.out),
            pairs=request.count,
            of=pairs.pairs,
            near_duplicates=self.passed,
            log_weight=total / request.count,
            log_weight_of_all=drawing.mean,
            unusable=losses.unusable,
            notes=tuple(losses.lines()),
            shards_read=pairs.read,
            seconds=time.perf_counter() - began,
        )

    def _open_teacher(self) -> None:
        """Load the teacher and embed the target before reading the set, because either may fail."""
        if not self.request.uses_teacher:
            return
        from tinyclip_edge.selection.space import open_space

        folder = self.request.feature_cache or self.request.work / "features"
        names = [name.source for name in self.names]
        self.space = open_space(self.source, names, self.request.teacher, folder)
        if self.request.pictures:
            self.target = self.space.embed(self.request.pictures)

    def _embed_set(self) -> None:
        assert self.space is not None
        with reported(self.request.progress, "teacher features") as report:
            self.space.fill(report, self.request.cluster)

    def _require(self, pairs: int) -> None:
        if self.request.count > pairs:
            raise DataError(
                f"--count {self.request.count:,} exceeds the {pairs:,} usable pairs of "
                f"{self.source.name}; lower it"
            )

    def _drawn(self, drawing: Drawing) -> Callable[[], Iterable[Mask]]:
        """Return a function that returns which pairs of each unit are chosen."""
        request = self.request
        if request.near_duplicates is None:
            return lambda: drawing.masks(request.count)
        assert self.space is not None
        masks, self.passed = drawing.distinct(
            request.count, request.near_duplicates, self.pairs, self.space
        )
        return lambda: masks

    def _choices(self, masks: Iterable[Mask]) -> Iterator[Choice]:
        """Yield the chosen rows of each part; raise DataError if one changed meanwhile."""
        names = iter(self.names)
        for unit, hashed, mask in zip(self.pairs.units, self.pairs, masks, strict=True):
            if unit_mark(unit.parts) != unit.mark:
                raise DataError(f"{unit.source} changed while it was read; select again")
            start = 0
            for part, end in zip(unit.parts, hashed.part_ends.tolist(), strict=True):
                rows = np.flatnonzero(mask[start:end]).astype(np.uint32)
                keys = hashed.keys[start:end][rows]
                yield Choice.of_part(part, next(names), rows, end - start, keys)
                start = end
