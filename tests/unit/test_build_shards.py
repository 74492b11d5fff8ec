"""What the builder lets training know of concepts that are held out."""

from __future__ import annotations

from starter.build_shards import captions, hidden_keywords, visible_keywords
from starter.sources import Picture

UNSEEN = frozenset({"whale", "sea lion"})


def picture(split: str) -> Picture:
    keywords = ["Whale", "sea", "lion", "sea lion"]
    return Picture("k", "", "spouting whale", "emoji", "noto", keywords=keywords, split=split)


def test_training_keywords_lose_the_names_of_unseen_concepts():
    assert visible_keywords(picture("train"), UNSEEN) == ["sea", "lion"]
    assert hidden_keywords([picture("train")], UNSEEN) == {"whale", "sea lion"}


def test_no_part_of_a_training_caption_names_an_unseen_concept():
    assert captions(picture("train"), UNSEEN) == ["spouting whale", "spouting whale, sea, lion"]
    assert captions(picture("val"), UNSEEN)[1] == "spouting whale, Whale, sea"


def test_unseen_samples_keep_theirs():
    assert visible_keywords(picture("test_concepts"), UNSEEN) == picture("train").keywords
    assert hidden_keywords([picture("test_concepts"), picture("val")], UNSEEN) == set()
