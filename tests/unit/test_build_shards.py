"""What the builder lets training know of concepts that are held out."""

from __future__ import annotations

import pytest

pytest.importorskip("resvg_py")

from tinyclip_edge.starter.build_shards import hidden_keywords, shown_keywords
from tinyclip_edge.starter.sources import Picture

UNSEEN = frozenset({"whale", "sea lion"})


def picture(split: str) -> Picture:
    keywords = ["Whale", "sea", "lion", "sea lion"]
    return Picture("k", "", "spouting whale", "emoji", "noto", keywords=keywords, split=split)


def test_training_keywords_lose_the_names_of_unseen_concepts():
    assert shown_keywords(picture("train"), UNSEEN) == ["sea", "lion"]
    assert hidden_keywords([picture("train")], UNSEEN) == {"whale", "sea lion"}


def test_held_out_samples_keep_theirs():
    assert shown_keywords(picture("test_concepts"), UNSEEN) == picture("train").keywords
    assert hidden_keywords([picture("test_concepts"), picture("val")], UNSEEN) == set()
