"""Embeddings of a picture collection, stored in one file with the hash of their model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import BundleError, DataError, shown
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.runtime.decode_modes import EXACT
from tinyclip_edge.runtime.hits import Hit, check_search, hits
from tinyclip_edge.runtime.index_export import ExportedIndex
from tinyclip_edge.runtime.index_file import (
    IndexContent,
    SkippedImage,
    index_path,
    read_index,
    write_index,
)
from tinyclip_edge.runtime.index_rows import (
    Predicate,
    check_columns,
    joined_metadata,
    joined_rows,
    joined_scales,
    joined_stamps,
    matching_rows,
    row_numbers,
    select,
)
from tinyclip_edge.runtime.protocol import Features, Images, Indexer, OnError, Progress
from tinyclip_edge.runtime.vectors import Codes, cosines, nearest_rows, unit
from tinyclip_edge.units import counted

if TYPE_CHECKING:
    from tinyclip_edge.runtime.graph import Graph, GraphType

EXACT_BELOW = 100_000  # pictures; an exact search of so many takes milliseconds
_QUERIES = 256  # searched at a time, to bound memory


@dataclass(frozen=True, slots=True, repr=False)
class ImageIndex(ExportedIndex):
    """Keys and unit-norm features of pictures, tied to one model by its hash; it never changes.

    ``features``: float32 ``[N, D]``, or int8 with one float32 scale per picture in ``scales``.
    ``width``: dimensions of the model's embeddings, if the index has only the first D of them.
    ``metadata``: a mapping of JSON values per picture. ``errors``: pictures that were skipped.
    Of an index of folders: ``files``, a FILE_STAMP per picture, and ``bundle``, the model's folder.
    ``graph``: for approximate search. ``decode``: how its pictures were decoded.
    """

    keys: Sequence[str]
    features: Features | Codes
    model_hash: str
    scales: Features | None = None
    width: int | None = None
    metadata: tuple[Mapping[str, Any], ...] | None = None
    errors: tuple[SkippedImage, ...] = ()
    files: npt.NDArray[Any] | None = None
    bundle: str | None = None
    graph: Graph | None = None
    decode: str = EXACT

    def __post_init__(self) -> None:
        check_columns(
            self.features,
            self.width,
            {
                "keys": self.keys,
                "scales": self.scales,
                "metadata": self.metadata,
                "file stamps": self.files,
            },
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def __repr__(self) -> str:
        facts = None if self.graph is None else self.graph.facts
        size = f"{counted(len(self), 'image')}, {self.features.shape[1]} dimensions"
        parts = [
            f"{size}, {self.features.dtype}",
            *([f"{len(self.errors):,} skipped"] if self.errors else []),
            *([] if facts is None else [f"recall@{facts.k} {facts.recall:.3f}"]),
            *([] if self.decode == EXACT else [f"decoded {self.decode}"]),
        ]
        return f"ImageIndex({', '.join(parts)}, model {self.model_hash})"

    def __getitem__(self, rows: slice | Sequence[int] | npt.NDArray[Any]) -> ImageIndex:
        """Return an index of some rows: a slice, row numbers, or one bool per picture."""
        numbers = row_numbers(rows, len(self))
        return replace(
            self,
            keys=select(self.keys, numbers),
            features=self.features[numbers],
            scales=None if self.scales is None else self.scales[numbers],
            metadata=None if self.metadata is None else select(self.metadata, numbers),
            files=None if self.files is None else self.files[numbers],
            graph=None if self.graph is None else self.graph.select(numbers, len(self)),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the features in memory and in the file."""
        return self.features.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def vector(self, key: str) -> Features:
        """Return a picture's float32 ``[D]``, usable as a query; DataError for an unknown key."""
        try:
            row = self.keys.index(key)
        except ValueError:
            raise DataError(f"index: no picture {shown(key)}") from None
        vector = np.asarray(self.features[row], dtype=np.float32)
        return vector if self.scales is None else np.asarray(vector * self.scales[row])

    def require(self, model_hash: str, decode: str | None = None) -> None:
        """Raise BundleError, naming both, if the model or the decode mode differs."""
        if self.model_hash != model_hash:
            raise BundleError(
                f"the index was made by model {self.model_hash}, but this is {model_hash}; index "
                "the images again with this model"
            )
        if decode not in (None, self.decode):
            raise BundleError(f"the index has pictures decoded {self.decode}, not {decode}")

    def scores(self, queries: Features) -> Features:
        """Return float32 ``[Q, N]`` cosines of unit-norm ``[Q, D]``; DataError if D differs."""
        return cosines(self._in_own_dimensions(queries), self.features, self.scales)

    def top(
        self, query: Features, k: int, *, min_score: float | None = None, exact: bool = False
    ) -> list[Hit]:
        """Return the ``k`` nearest to a unit-norm ``[D]``, nearest first, ties in stored order."""
        return self.top_of_each(query[None], k, min_score=min_score, exact=exact)[0]

    def top_of_each(
        self, queries: Features, k: int, *, min_score: float | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """Return ``top`` of each query of ``[Q, D]``; scores below ``min_score`` are left out.

        ``exact`` compares every picture, even if the index has a graph.
        """
        check_search(k, min_score)
        queries = self._in_own_dimensions(queries)
        search = nearest_rows if exact or self.graph is None else self.graph.nearest
        return [
            hits(near, self.keys, self.metadata, min_score=min_score)
            for start in range(0, len(queries), _QUERIES)
            for near in search(queries[start : start + _QUERIES], self.features, self.scales, k)
        ]

    def _in_own_dimensions(self, queries: Features) -> Features:
        """Return queries in the index's dimensions, unit norm."""
        dimensions = self.features.shape[1]
        if queries.ndim != 2 or queries.shape[1] not in (self.width or dimensions, dimensions):
            width = self.width or dimensions
            raise DataError(f"index: a query has {queries.shape[-1]} dimensions, not {width}")
        return unit(queries[:, :dimensions]) if queries.shape[1] > dimensions else queries

    def approximate(
        self, queries: Features | None = None, *, recall: float = 0.98, k: int = 10,
        dtype: GraphType = "int8", minimum: int = EXACT_BELOW, threads: int | None = None,
        progress: Progress = False,
    ) -> ImageIndex:  # fmt: skip
        """Return the index with a graph (usearch, HNSW), so that a search compares few pictures.

        Searches are tuned to return a share ``recall`` of an exact search's ``k`` pictures. It is
        measured with ``queries`` ``[Q, D]``, such as texts, or 200 pictures of the index, which are
        easier; ``graph.facts`` has the value. Scores stay exact. Pictures added later are compared
        one by one until the next call adds them to the graph. An index of fewer than ``minimum``
        pictures gets no graph. Raise MissingExtraError without usearch.
        """
        from tinyclip_edge.runtime.graph_recall import graph_of

        if len(self) < max(1, minimum):
            return replace(self, graph=None)
        queries = None if queries is None else self._in_own_dimensions(queries)
        graph = graph_of(
            self, queries, recall=recall, k=k, dtype=dtype, threads=threads, progress=progress
        )
        return replace(self, graph=graph)

    def add(
        self, model: Indexer, images: Images, keys: Iterable[str] | None = None,
        *, metadata: Iterable[Mapping[str, Any]] | None = None,
        on_error: OnError = "raise", progress: Progress = False,
    ) -> ImageIndex:  # fmt: skip
        """Return an index with more pictures, embedded by its model; arguments as for ``index``.

        Raise BundleError for another model, DataError for a key that it already has.
        """
        model = model.decoding(self.decode)
        self.require(model.model_hash)
        added = model.index(images, keys, metadata=metadata, on_error=on_error, progress=progress)
        return self.merge(added)

    def update(
        self, model: Indexer, images: Images, keys: Iterable[str] | None = None,
        *, metadata: Iterable[Mapping[str, Any]] | None = None,
        on_error: OnError = "raise", progress: Progress = False,
    ) -> ImageIndex:  # fmt: skip
        """Return an index as ``add`` does, but new pictures replace those of the same key."""
        model = model.decoding(self.decode)
        self.require(model.model_hash)
        added = model.index(images, keys, metadata=metadata, on_error=on_error, progress=progress)
        return self.merge(added, on_duplicate="last")

    def merge(self, other: ImageIndex, *, on_duplicate: str = "raise") -> ImageIndex:
        """Return an index of both, in this one's precision and dimensions.

        ``on_duplicate``, for a key of both: "raise" DataError, or keep the "first" or the "last"
        picture. Raise BundleError for an index of another model or decode mode.
        """
        other.require(self.model_hash, self.decode)
        from tinyclip_edge.runtime.compress import in_form_of

        rows, other_rows = joined_rows(self.keys, other.keys, on_duplicate)
        first, last = self[rows], in_form_of(self, other)[other_rows]
        counts = len(first), len(last)
        return replace(
            first,
            keys=(*first.keys, *last.keys),
            features=np.concatenate([first.features, last.features]),
            scales=joined_scales(first.scales, last.scales),
            metadata=joined_metadata(first.metadata, last.metadata, counts),
            errors=tuple(dict.fromkeys(first.errors + last.errors)),
            files=joined_stamps(first.files, last.files, counts),
        )

    def remove(self, keys: str | Iterable[str]) -> ImageIndex:
        """Return an index without these pictures; raise DataError for a key that it lacks."""
        unwanted = {keys} if isinstance(keys, str) else set(keys)
        if missing := unwanted.difference(self.keys):
            raise DataError(f"index: no picture {shown(min(missing))} to remove")
        return self[np.array([key not in unwanted for key in self.keys], dtype=bool)]

    def filter(self, predicate: Predicate | None = None, /, **equal: object) -> ImageIndex:
        """Return an index of the pictures for which ``predicate(key, metadata)`` holds.

        ``equal``: values that their metadata must have, such as ``album="2019"``.
        """
        return self[matching_rows(self.keys, self.metadata, predicate, equal)]

    def compressed(self, *, dimensions: int | None = None, int8: bool = True) -> ImageIndex:
        """Return a smaller index of the same pictures; `compress.recall_cost` measures its loss.

        ``dimensions`` truncates the vectors to that many and normalises them again. ``int8``
        rounds each vector to 127 steps on either side of zero, with its own scale, so that no
        picture depends on the others. Raise DataError for more dimensions than the index has, or
        when it is int8 already.
        """
        from tinyclip_edge.runtime.compress import compressed

        return compressed(self, dimensions, int8=int8)

    def save(self, path: str | Path) -> Path:
        """Write an ``.npz`` without pickles atomically, and return its path."""
        path = index_path(path)
        with file_written_aside(path) as file:
            write_index(file, IndexContent(*(getattr(self, n) for n in IndexContent._fields)))
        return path

    @classmethod
    def load(cls, path: str | Path, *, mmap: bool = False, exact: bool = False) -> ImageIndex:
        """Read a file of ``save``; raise DataError if it is missing or not an index.

        ``mmap`` leaves features and graph on disk, to be checked when used: a large index opens at
        once, and a search reads only what it needs. ``exact`` leaves out the graph.
        """
        path = index_path(path)
        content = read_index(path, mapped=mmap, exact=exact)
        try:
            return cls(*content)
        except DataError as error:
            raise DataError(f"{path} is not an index file: {error}") from error

    @classmethod
    def from_parquet(cls, paths: str | Path | Iterable[str | Path]) -> ImageIndex:
        """Read parquet files of ``tinyclip-edge embed``, or folders of them, as one index.

        Raise DataError for files of another kind, BundleError for files of several models.
        """
        from tinyclip_edge.runtime.index_parquet import read_parquet_index

        return cls(*read_parquet_index(paths))
