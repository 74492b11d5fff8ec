"""Index and search pictures with any encoder of images and texts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import numpy as np

from tinyclip_edge.errors import DataError, shown
from tinyclip_edge.paths import is_file
from tinyclip_edge.runtime.image_formats import is_image_name
from tinyclip_edge.runtime.protocol import Features, ImageInput, Images, OnError, Progress
from tinyclip_edge.runtime.vectors import unit

if TYPE_CHECKING:
    # Imported on demand: an application that only encodes a text starts faster without them.
    from tinyclip_edge.runtime.hits import Hit
    from tinyclip_edge.runtime.index import ImageIndex
    from tinyclip_edge.runtime.indexing import PictureEncoder

# A text, a picture (a path is a Path), an embedding [D], or a weighted sum of those.
Query: TypeAlias = "ImageInput | Features | Mapping[Any, float]"


class PictureSearch(ABC):
    """``index``, ``query`` and ``search`` of a model that embeds images and texts."""

    @property
    @abstractmethod
    def model_hash(self) -> str:
        """Identifier of weights and precision, which an index of this model stores."""

    @property
    @abstractmethod
    def decode(self) -> str:
        """How pictures are decoded: a key of ``DECODE_MODES``, which an index stores."""

    @abstractmethod
    def decoding(self, mode: str) -> PictureSearch:
        """Return the same model with another decode mode."""

    @abstractmethod
    def encode_image(self, images: Iterable[ImageInput]) -> Features:
        """Return float32 ``[N, D]``, unit norm; raise DataError for a broken image."""

    @abstractmethod
    def encode_text(self, texts: Iterable[str]) -> Features:
        """Return float32 ``[N, D]``, unit norm."""

    @abstractmethod
    def picture_encoder(self) -> PictureEncoder:
        """Return the parts of the image tower, for callers that decode ahead of it."""

    def index(
        self,
        images: Images,
        keys: Iterable[str] | None = None,
        *,
        metadata: Iterable[Mapping[str, Any]] | None = None,
        on_error: OnError = "raise",
        progress: Progress = False,
    ) -> ImageIndex:
        """Embed a folder, or a list or generator of paths, folders and pictures.

        ``keys``: paths by default, and numbers for pictures without a path. ``metadata``: a mapping
        of JSON values per picture. ``on_error="skip"`` leaves out pictures that cannot be read and
        lists them in ``index.errors``; "raise" raises DataError. ``progress``: True for a bar on
        stderr, or a function of the pictures done and their total (None if unknown). Pictures are
        decoded in threads while the model computes; a few batches are in memory at a time.
        """
        from tinyclip_edge.runtime.indexing import build_index

        return build_index(
            self.picture_encoder(), self.model_hash, images, keys,
            decode=self.decode, metadata=metadata, on_error=on_error, progress=progress,
        )  # fmt: skip

    def query(self, query: Query) -> Features:
        """Return the embedding ``[D]``, unit norm, of a text, a picture or a weighted sum.

        A str is a text; a picture is a Path, bytes, PIL image or uint8 array. A mapping is a sum
        with weights, negative ones too: ``{"a bicycle": 1, Path("a.jpg"): 0.5, "red": -1}``. A
        float array ``[D]`` is an embedding. Raise DataError for a text that is empty or the path of
        a picture, for numbers that are not finite, and for a sum that is empty or cancels out.
        """
        if isinstance(query, Mapping):
            return _sum([_weight(weight) * self.query(part) for part, weight in query.items()])
        if isinstance(query, np.ndarray) and query.dtype.kind == "f":
            if not np.isfinite(query).all() or not query.any():
                raise DataError("a query embedding has zeros alone, or numbers that are not finite")
            return _sum([np.asarray(query, dtype=np.float32)])
        if not isinstance(query, str):
            return _first(self.encode_image([cast("ImageInput", query)]))
        if is_image_name(query) and is_file(Path(query)):
            raise DataError(
                f"{query!r} is a picture: write Path({query!r}) to search by it; for the text, "
                "encode_text gives an embedding to search by"
            )
        if not query.strip():
            raise DataError("the text to search for is empty")
        return _first(self.encode_text([query]))

    @overload
    def search(
        self, query: list[Query] | tuple[Query, ...], index: ImageIndex, k: int = 5,
        *, negative: Query | Sequence[Query] | None = None, min_score: float | None = None,
    ) -> list[list[Hit]]: ...  # fmt: skip

    @overload
    def search(
        self, query: Query, index: ImageIndex, k: int = 5,
        *, negative: Query | Sequence[Query] | None = None, min_score: float | None = None,
    ) -> list[Hit]: ...  # fmt: skip

    def search(
        self,
        query: Query | list[Query] | tuple[Query, ...],
        index: ImageIndex,
        k: int = 5,
        *,
        negative: Query | Sequence[Query] | None = None,
        min_score: float | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """Return the ``k`` pictures nearest to a query, best first; see ``query`` for its forms.

        Query pictures are decoded as the index's were. A list or tuple of queries returns a list
        for each. ``negative``: one or several queries to avoid; each is subtracted. ``min_score``
        leaves out lower cosines. Raise BundleError if another model, or another precision of it,
        made the index.
        """
        index.require(self.model_hash)
        several = isinstance(query, (list, tuple))
        queries = list(query) if isinstance(query, (list, tuple)) else [query]
        model = self.decoding(index.decode)
        unlike = [] if negative is None else [-model.query(part) for part in _listed(negative)]
        rows = [_sum([model.query(part), *unlike]) for part in queries]
        if not rows:
            return []
        hits = index.top_of_each(np.stack(rows), k, min_score=min_score)
        return hits if several else hits[0]


def _listed(queries: Query | Sequence[Query]) -> Sequence[Query]:
    return queries if isinstance(queries, (list, tuple)) else [queries]  # type: ignore[list-item]


def _first(rows: Features) -> Features:
    return np.asarray(rows[0], dtype=np.float32)


def _weight(value: float) -> float:
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not math.isfinite(weight):
        text = f"the weight of a part of a query must be a finite number, not {shown(value)}"
        raise DataError(text)
    return weight


def _sum(parts: list[Features]) -> Features:
    if len({part.shape for part in parts}) != 1 or parts[0].ndim != 1:
        shapes = ", ".join(shown(list(part.shape)) for part in parts) or "none"
        raise DataError(f"a query is a sum of embeddings [D], not of {shapes}")
    total = _first(unit(np.sum(parts, axis=0, dtype=np.float32, keepdims=True)))
    if not np.isfinite(total).all() or not total.any():
        raise DataError("the parts of the query cancel out; change their weights")
    return total
