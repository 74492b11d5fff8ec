"""The log weight of every pair: of its captions, of its picture, or of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinyclip_edge.collection.shard_units import Unit
from tinyclip_edge.errors import DataError
from tinyclip_edge.selection.density import DensityRatio
from tinyclip_edge.selection.hashed_set import HashedSet
from tinyclip_edge.selection.ngrams import hashed_texts
from tinyclip_edge.selection.request import Request
from tinyclip_edge.selection.unit_file import HashedUnit
from tinyclip_edge.selection.weights import Doubles, log_ratio, pair_weights

if TYPE_CHECKING:
    from tinyclip_edge.selection.space import TeacherSpace

Floats = npt.NDArray[np.float32]

SAMPLE = 4096  # embeddings of each side to which the density ratio is fitted


@dataclass(frozen=True, slots=True)
class Weighing:
    """Log ratios of target to set; the captions' and the picture's are added if both exist."""

    ratio: Doubles | None  # of each bucket
    density: DensityRatio | None
    space: TeacherSpace | None

    @classmethod
    def fit(
        cls,
        request: Request,
        pairs: HashedSet,
        space: TeacherSpace | None,
        target: Floats | None,
    ) -> Weighing:
        """Compare the target with the set; ``target``: embeddings of its pictures.

        Raises DataError if the target's texts or the set's captions contain no word, or if no
        picture of the set can be decoded.
        """
        ratio = density = None
        if request.texts:
            ratio = _caption_ratio(request, pairs)
        if target is not None:
            assert space is not None
            rng = np.random.default_rng([request.seed, 2])
            own = target[np.sort(rng.permutation(len(target))[:SAMPLE])]
            density = DensityRatio.fit(own, _sample(pairs, space, rng), request.seed)
        return cls(ratio, density, space)

    def of(self, unit: Unit, hashed: HashedUnit) -> Doubles:
        """Return the log weights ``[P]`` of a unit; minus infinity where the picture is broken."""
        weights = np.zeros(hashed.pairs)
        if self.ratio is not None:
            weights = pair_weights(hashed.ids, hashed.caption_ends, hashed.pair_ends, self.ratio)
        if self.space is not None and hashed.pairs:
            embeddings = np.concatenate(list(unit_embeddings(self.space, unit, hashed)))
            broken = np.isnan(embeddings[:, 0])
            if self.density is not None:
                weights = weights + self.density.log(embeddings)
            weights = np.where(broken, -np.inf, weights)
        return weights


def unit_embeddings(space: TeacherSpace, unit: Unit, hashed: HashedUnit) -> Iterator[Floats]:
    """Yield the embeddings of the pictures of each part, NaN where there is none."""
    start = 0
    for part, end in zip(unit.parts, hashed.part_ends.tolist(), strict=True):
        if end > start:
            yield space.of(part, hashed.samples[start:end])
        start = end


def _caption_ratio(request: Request, pairs: HashedSet) -> Doubles:
    buckets = request.hashing.buckets
    target = np.bincount(hashed_texts(request.texts, request.hashing).ids, minlength=buckets)
    raw = pairs.counts()
    if not target.sum() or not raw.sum():
        side = "captions of the set" if target.sum() else "texts of the target"
        raise DataError(f"the {side} contain no word")
    return log_ratio(target, raw, request.smoothing)


def _sample(pairs: HashedSet, space: TeacherSpace, rng: np.random.Generator) -> Floats:
    """Return the embeddings of some pictures of the set, drawn from all of its pairs."""
    rows = np.sort(rng.choice(pairs.pairs, min(pairs.pairs, SAMPLE), replace=False))
    sample: list[Floats] = []
    first = 0
    for unit, hashed in zip(pairs.units, pairs, strict=True):
        start = 0
        for part, end in zip(unit.parts, hashed.part_ends.tolist(), strict=True):
            low, high = np.searchsorted(rows, (first + start, first + end))
            if high > low:
                marks = hashed.samples[rows[low:high] - first]
                sample.append(space.of(part, marks))
            start = end
        first += hashed.pairs
    embeddings = np.concatenate(sample)
    usable = embeddings[~np.isnan(embeddings[:, 0])]
    if not len(usable):
        raise DataError("no picture of the set can be decoded")
    return usable
