"""A handful of queries on validation pictures: what teacher and student find first."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_edge.config import RunConfig, load_config
from tinyclip_edge.data import UndecodableImageError, decode_image, open_source
from tinyclip_edge.errors import DataError, TinyClipError
from tinyclip_edge.report.bundles import Bundle
from tinyclip_edge.report.drawing import spread
from tinyclip_edge.report.html import Safe, element, note, section
from tinyclip_edge.report.record import CONFIG, RunRecord
from tinyclip_edge.runtime.protocol import Embedder

CANDIDATES = 200  # pictures, one a concept
FIRST = 5
EDGE = 96  # pixels of a thumbnail


def pictures(record: RunRecord, made: Sequence[Bundle], queries: int) -> Safe:
    """Return what teacher, student and a bundle find among at most CANDIDATES pictures.

    Raises TinyClipError where a model or the pairs cannot be read.
    """
    config = load_config(record.folder / CONFIG)
    images, labels = _candidates(config)
    # The student first: a run that has none yet needs no teacher.
    student = _torch(str(record.folder), images, labels)
    found = {"teacher": _torch(config.teacher.model, images, labels, config.teacher.pretrained),
             "student": student}  # fmt: skip
    for bundle in made:
        try:
            found[bundle.label] = _edge(bundle, images, labels)
        except TinyClipError:  # it may have lost files since; the table has its figures
            continue
        break
    thumbs = _Thumbs(images, labels)
    parts = [
        _query(place, labels, {who: order[place] for who, order in found.items()}, thumbs)
        for place in spread(len(labels), queries)
    ]
    own = np.arange(len(labels))
    firsts = ", ".join(f"{who} {(order[:, 0] == own).sum()}" for who, order in found.items())
    told = (
        f"Own picture first, of {len(labels)} phrases: {firsts}. Each phrase ranks {len(images)} "
        "validation pictures, one a concept; the phrases shown are evenly spaced over them, not "
        "chosen. Green frame: the phrase's own picture."
    )
    return section("pictures", "What they find", note(told), *parts)


def _candidates(config: RunConfig) -> tuple[list[Image.Image], list[str]]:
    """Return the first picture of each of the first concepts, and their captions."""
    if config.data.val is None:
        raise DataError("data.val is null, so there are no pictures to find")
    images: dict[str, Image.Image] = {}
    labels: list[str] = []
    for pair in islice(
        open_source(config.data.val, limits=config.data.limits), config.data.val_limit
    ):
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


class _Thumbs:
    """Small copies of the pictures, made once each."""

    def __init__(self, images: Sequence[Image.Image], labels: Sequence[str]) -> None:
        self._images, self._labels = images, labels
        self._made: dict[int, str] = {}

    def html(self, place: int) -> Safe:
        """Return a picture with its caption as the alternative."""
        if place not in self._made:
            self._made[place] = _data_uri(self._images[place])
        return element("img", src=self._made[place], alt=self._labels[place])


def _data_uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((EDGE, EDGE))
    page = io.BytesIO()
    small.save(page, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(page.getvalue()).decode()}"


def _query(
    place: int,
    labels: Sequence[str],
    orders: dict[str, npt.NDArray[np.int64]],
    thumbs: _Thumbs,
) -> Safe:
    answers = (
        element("div", element("h4", _told(who, order, place)), _hits(order, place, thumbs))
        for who, order in orders.items()
    )
    return element(
        "div",
        element("h3", f"“{labels[place]}”"),
        element("div", *answers, class_="answers"),
        class_="query",
    )


def _told(who: str, order: npt.NDArray[np.int64], own: int) -> str:
    return f"{who}: own picture in place {int(np.flatnonzero(order == own)[0]) + 1}"


def _hits(order: npt.NDArray[np.int64], own: int, thumbs: _Thumbs) -> Safe:
    def items() -> Iterator[Safe]:
        for rank, place in enumerate(order[:FIRST].tolist(), 1):
            right = place == own
            told = f"{rank}, own" if right else str(rank)
            small = element("small", told)
            yield element("li", thumbs.html(place), small, class_="right" if right else None)

    return element("ol", *items(), class_="hits")
