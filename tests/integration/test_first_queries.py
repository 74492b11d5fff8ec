"""The queries that the demo offers first are among those that the starter teacher answers well."""

from __future__ import annotations

import numpy as np
import pytest

from tinyclip_demo.gallery import starter_gallery
from tinyclip_demo.presets import QUERIES
from tinyclip_edge.models import TorchEmbedder, load_clip

BOATS = {"motor boat", "man rowing boat", "woman rowing boat", "person rowing boat", "ship",
         "speedboat", "canoe", "ferry", "sailboat", "passenger ship"}  # fmt: skip
MOONS = {"first quarter moon", "last quarter moon", "full moon", "new moon", "crescent moon",
         "waxing gibbous moon", "waning gibbous moon", "waxing crescent moon",
         "waning crescent moon", "new moon face"}  # fmt: skip
CYCLISTS = {"man biking", "woman biking", "person biking", "bicycle"}
# Captions that answer the query, and how many of the first K pictures have one of them.
ANSWERS = {
    "a boat at sea": (BOATS.__contains__, 8, 8),
    "hearts": (lambda caption: "heart" in caption, 10, 10),
    "person riding a bike": (CYCLISTS.__contains__, 4, 4),
    "citrus fruit": ({"lemon", "lime", "tangerine"}.__contains__, 3, 4),
    "phases of the moon": (MOONS.__contains__, 7, 10),
    "people holding hands": (lambda caption: "holding hands" in caption, 4, 4),
}
pytestmark = pytest.mark.slow  # the whole gallery is encoded


def test_the_first_pictures_are_what_is_asked_for():
    gallery = starter_gallery()
    model = TorchEmbedder(load_clip("starter-teacher"))
    pictures = [gallery.picture(row) for row in range(len(gallery))]
    steps = range(0, len(pictures), 64)
    features = np.concatenate([model.encode_image(pictures[start : start + 64]) for start in steps])
    order = np.argsort(-(model.encode_text(QUERIES) @ features.T), axis=1)
    assert set(QUERIES) == set(ANSWERS)
    for query, row in zip(QUERIES, order, strict=True):
        is_answer, least, first = ANSWERS[query]
        captions = [gallery.captions[i] for i in row[:first]]
        assert sum(map(is_answer, captions)) >= least, (query, captions)
