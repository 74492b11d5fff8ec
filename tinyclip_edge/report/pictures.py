"""A few queries on validation pictures, with the first results of teacher and student."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_edge.config import RunConfig, load_config
from tinyclip_edge.data import UndecodableImageError, decode_image, open_source
from tinyclip_edge.errors import DataError, TinyClipError
from tinyclip_edge.report.bundles import Bundle
from tinyclip_edge.report.drawing import evenly_spaced
from tinyclip_edge.report.html import Safe, element, note, section
from tinyclip_edge.report.record import CONFIG, RunRecord
from tinyclip_edge.runtime.protocol import Embedder

CANDIDATES = 200  # pictures, one per concept
FIRST = 5
EDGE = 96  # pixels of a thumbnail


def pictures(record: RunRecord, bundles: Sequence[Bundle], queries: int) -> Safe:
    """Return the first results of teacher, student and a bundle among at most CANDIDATES pictures.

    Raises TinyClipError when a model or the pairs cannot be read.
    """
    config = load_config(record.folder / CONFIG)
    images, labels = _candidates(config)
    # The student first: without one, the teacher need not be loaded.
    student = _torch(str(record.folder), images, labels)
    rankings = {"teacher": _torch(config.teacher.model, images, labels, config.teacher.pretrained),
             "student": student}  # fmt: skip
    for bundle in bundles:
        try:
            rankings[bundle.label] = _edge(bundle, images, labels)
        except TinyClipError:  # its files may be gone; the table still has its figures
            continue
        break
    thumbnails = _Thumbnails(images, labels)
    parts = [
        _query(
            index, labels, {name: ranking[index] for name, ranking in rankings.items()}, thumbnails
        )
        for index in evenly_spaced(len(labels), queries)
    ]
    own_index = np.arange(len(labels))
    firsts = ", ".join(
        f"{name} {(ranking[:, 0] == own_index).sum()}" for name, ranking in rankings.items()
    )
    summary = (
        f"Own picture first, of {len(labels):,} phrases: {firsts}. Each phrase ranks "
        f"{len(images):,} validation pictures, one per concept; the phrases shown are evenly "
        "spaced, not hand-picked. Green frame: the phrase's own picture."
    )
    return section("pictures", "Search results", note(summary), *parts)


def _candidates(config: RunConfig) -> tuple[list[Image.Image], list[str]]:
    """Return the first picture of each of the first concepts, and their captions."""
    if config.data.val is None:
        raise DataError("data.val is null, so there are no pictures to search")
    images: dict[str, Image.Image] = {}
    labels: list[str] = []
    # A report runs no commands, because the run may be someone else's.
    options = replace(config.data.source_options, allow_pipes=False)
    for pair in islice(open_source(config.data.val, options), config.data.val_limit):
        if pair.concept in images:
            continue
        try:
            images[pair.concept] = decode_image(pair.image)
        except UndecodableImageError:
            continue
        labels.append(pair.captions[0])
        if len(images) == CANDIDATES:
            break
    if len(images) < 2:
        raise DataError(f"{config.data.val} has fewer than two pictures to choose from")
    return list(images.values()), labels


def _torch(
    name: str, images: Sequence[Image.Image], labels: Sequence[str], pretrained: str | None = None
) -> npt.NDArray[np.int64]:
    from tinyclip_edge.models import TorchEmbedder, load_clip

    return _ranking(TorchEmbedder(load_clip(name, pretrained)), images, labels)


def _edge(
    bundle: Bundle, images: Sequence[Image.Image], labels: Sequence[str]
) -> npt.NDArray[np.int64]:
    from tinyclip_edge.runtime.edge import EdgeCLIP

    return _ranking(EdgeCLIP.load(bundle.folder), images, labels)


def _ranking(
    model: Embedder, images: Sequence[Image.Image], labels: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return for each label ``[N, N]`` all pictures, best first."""
    similarity = model.encode_text(labels) @ model.encode_image(images).T
    return np.argsort(-similarity, axis=1, kind="stable")


class _Thumbnails:
    """Small copies of the pictures, each encoded once."""

    def __init__(self, images: Sequence[Image.Image], labels: Sequence[str]) -> None:
        self._images, self._labels = images, labels
        self._uris: dict[int, str] = {}

    def html(self, index: int) -> Safe:
        """Return a picture with its caption as the alternative."""
        if index not in self._uris:
            self._uris[index] = _data_uri(self._images[index])
        return element("img", src=self._uris[index], alt=self._labels[index])


def _data_uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((EDGE, EDGE))
    page = io.BytesIO()
    small.save(page, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(page.getvalue()).decode()}"


def _query(
    index: int,
    labels: Sequence[str],
    rankings: dict[str, npt.NDArray[np.int64]],
    thumbnails: _Thumbnails,
) -> Safe:
    columns = (
        element(
            "div", element("h4", _own_rank(name, ranking, index)), _hits(ranking, index, thumbnails)
        )
        for name, ranking in rankings.items()
    )
    return element(
        "div",
        element("h3", f"“{labels[index]}”"),
        element("div", *columns, class_="answers"),
        class_="query",
    )


def _own_rank(name: str, ranking: npt.NDArray[np.int64], own_index: int) -> str:
    return f"{name}: own picture at rank {int(np.flatnonzero(ranking == own_index)[0]) + 1}"


def _hits(ranking: npt.NDArray[np.int64], own_index: int, thumbnails: _Thumbnails) -> Safe:
    def items() -> Iterator[Safe]:
        for rank, index in enumerate(ranking[:FIRST].tolist(), 1):
            is_own = index == own_index
            label = f"{rank}, own" if is_own else str(rank)
            small = element("small", label)
            yield element("li", thumbnails.html(index), small, class_="right" if is_own else None)

    return element("ol", *items(), class_="hits")
