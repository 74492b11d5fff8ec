"""The model behind the server: its towers in batches, its labels, its index."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tinyclip_edge.errors import DataError, first_line
from tinyclip_edge.runtime.confidence import Threshold, decision
from tinyclip_edge.runtime.familiarity import Classification, classification
from tinyclip_edge.runtime.prompts import check_prompts, class_features, prompt_chars
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.serve.batching import Batcher
from tinyclip_edge.serve.content import picture_bytes
from tinyclip_edge.serve.errors import RequestError
from tinyclip_edge.serve.metrics import ServerMetrics
from tinyclip_edge.serve.settings import ServerLimits

if TYPE_CHECKING:
    from tinyclip_edge.runtime.edge import EdgeCLIP
    from tinyclip_edge.runtime.hits import Hit
    from tinyclip_edge.runtime.index import ImageIndex

_LABEL_SETS = 16  # whose embeddings are cached
Result = TypeVar("Result")


class ServedModel:
    """One EdgeCLIP for all requests: towers run one batch at a time while other threads decode."""

    def __init__(
        self,
        clip: EdgeCLIP,
        limits: ServerLimits,
        metrics: ServerMetrics,
        index: Path | None = None,
    ) -> None:
        """Load both towers. Raise BundleError for an index of another model."""
        self.clip, self.limits = clip, limits
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
        encoder = clip.picture_encoder()
        self._preprocess = encoder.preprocess
        sizes = {"waiting": limits.waiting, "batch": min(limits.batch, encoder.batch)}
        self.texts: Batcher[list[int]] = Batcher(
            clip.encode_tokens, self._model, observe=metrics.batches_of("text"), **sizes
        )
        self.pictures: Batcher[Features] = Batcher(
            lambda pixels: encoder.tower(np.stack(pixels)), self._model,
            observe=metrics.batches_of("image"), **sizes,
        )  # fmt: skip
        metrics.watch("text", lambda: self.texts.waiting)
        metrics.watch("image", lambda: self.pictures.waiting)
        self._classes: OrderedDict[tuple[tuple[str, ...], ...], Features] = OrderedDict()
        self._index = None if index is None else LiveIndex(index, clip.model_hash)
        clip.encode_text(["a"])  # a broken bundle is reported at start, not by the first request

    def close(self) -> None:
        """Wait for the running batch and end the threads."""
        self._decoders.shutdown(cancel_futures=True)
        self._model.shutdown(cancel_futures=True)

    async def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._decoders, lambda: [self.clip.token_ids(text) for text in texts]
        )

    async def embed_tokens(self, tokens: Sequence[list[int]]) -> Features:
        """Return ``[N, D]`` of the token ids of texts."""
        return await self.texts(tokens)

    async def embed_texts(self, texts: Sequence[str]) -> Features:
        """Return ``[N, D]``."""
        return await self.embed_tokens(await self.token_ids(texts))

    async def embed_pictures(self, pictures: Sequence[str]) -> Features:
        """Return ``[N, D]`` of data URLs or base64; raise RequestError or DataError."""
        loop = asyncio.get_running_loop()
        pixels = await asyncio.gather(*(
            loop.run_in_executor(self._decoders, self._pixels, text, f"image {number}")
            for number, text in enumerate(pictures)
        ))  # fmt: skip
        return await self.pictures(pixels)

    async def classify(
        self,
        picture: str,
        labels: Sequence[str],
        templates: Sequence[str],
        threshold: Threshold = None,
    ) -> Classification:
        """Return (label, probability), best first; raise DataError for bad labels or a bad picture.

        ``threshold`` is as in ``EdgeCLIP.classify``.
        """
        if len(labels) * len(templates) > self.limits.labels:
            raise RequestError(
                f"{len(labels) * len(templates):,} prompts (labels times templates); at most "
                f"{self.limits.labels:,}",
                413,
            )
        size = prompt_chars(labels, templates)
        if size > self.limits.prompt_chars:
            raise RequestError(
                f"prompts of {size:,} characters; at most {self.limits.prompt_chars:,}", 413
            )
        decided = decision(self.clip.confidence, labels, templates, threshold)
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._decoders, self._pixels, picture, "image 0")
        images = await self.pictures([pixels])
        classes = await self._run(self._class_features, tuple(labels), tuple(templates))
        return classification(self.clip, labels, classes, images, pixels[None], decided)

    async def search(self, query: Features, top: int, min_score: float | None) -> list[Hit]:
        """Return the pictures of the index nearest to a vector ``[D]`` of any norm."""
        if self._index is None:
            raise RequestError("this server has no index: start it with --index INDEX", 404)
        index = self._index
        return await self._run(
            lambda: self.clip.search(query, index.current(), top, min_score=min_score)
        )

    async def _run(self, work: Callable[..., Result], *arguments: object) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._model, partial(work, *arguments))

    def _pixels(self, text: str, label: str) -> Features:
        return self._preprocess(picture_bytes(text, label, pixels=self.limits.image_pixels), label)

    def _class_features(self, labels: tuple[str, ...], templates: tuple[str, ...]) -> Features:
        key = (labels, templates)
        if key not in self._classes:
            check_prompts(self.clip, labels, templates)
            self._classes[key] = class_features(self.clip, labels, templates)
            if len(self._classes) > _LABEL_SETS:
                self._classes.popitem(last=False)
        self._classes.move_to_end(key)
        return self._classes[key]


class LiveIndex:
    """An index file that may be replaced while the server runs."""

    def __init__(self, path: Path, model_hash: str) -> None:
        from tinyclip_edge.runtime.index_file import index_path

        self._path, self._model_hash = index_path(path), model_hash
        self._stamp: tuple[int, int, int] | None = None
        self._index: ImageIndex
        self.current()

    def current(self) -> ImageIndex:
        """Return the index now on disk, or the last readable one."""
        from tinyclip_edge.runtime.index import ImageIndex
        from tinyclip_edge.runtime.index_file import missing_index

        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                index = ImageIndex.load(self._path, mmap=True)
                index.require(self._model_hash)
                self._index, self._stamp = index, stamp
        except FileNotFoundError as error:
            if self._stamp is None:
                raise missing_index(self._path) from error
        except (OSError, DataError) as error:
            if self._stamp is None:
                raise DataError(f"cannot read index {self._path}: {first_line(error)}") from error
        return self._index
