"""The teacher is measured by the definitions of ``tinyclip-edge eval``."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from starter.evaluate_teacher import (
    TEST_SETS,
    names_met_in_training,
    recalls,
    strict_sets,
)
from tinyclip_edge.starter.kit import KitSample


def test_ties_are_chance_not_hits() -> None:
    same = np.tile(np.array([[1, 0]], dtype=np.float32), (4, 1))
    recall = recalls(same, same)
    # Every score equal: one of four at random, in both directions and among all candidates.
    assert recall == {
        "n": 4, "i2t@1": 25, "i2t@5": 100, "t2i@1": 25, "t2i@5": 100, "mean@1": 25, "among100": 25
    }  # fmt: skip


def test_among_100_asks_from_image_to_text_only() -> None:
    # All three images choose text 0; texts 0 and 2 choose image 0, text 1 image 1, by hand.
    scores = np.array([[0.9, 0.1, 0.8], [0.8, 0.5, 0.1], [0.7, 0.2, 0.3]], dtype=np.float32)
    recall = recalls(scores, np.eye(3, dtype=np.float32))
    assert recall["i2t@1"] == pytest.approx(33.33) and recall["t2i@1"] == pytest.approx(66.67)
    assert recall["among100"] == recall["i2t@1"] and recall["mean@1"] == 50


def write_train(folder: Path, captions: str, keywords: list[str], hidden: list[str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        about = json.dumps({"concept": "x", "keywords": keywords}).encode()
        for suffix, content in (("webp", b""), ("txt", captions.encode()), ("json", about)):
            info = tarfile.TarInfo(f"a.{suffix}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (folder / "train-00000.tar.gz").write_bytes(gzip.compress(buffer.getvalue()))
    (folder / "index.json").write_text(json.dumps({"held_out_keywords": hidden}))


def test_names_met_are_captions_their_parts_and_keywords(tmp_path: Path) -> None:
    write_train(tmp_path, "spouting whale, Sea\nblue box", ["Octopus", "ink"], ["crab"])
    assert names_met_in_training(tmp_path) == {
        "spouting whale, sea", "spouting whale", "sea", "blue box", "octopus", "ink", "crab"
    }  # fmt: skip


def test_the_strict_cut_drops_names_that_training_met() -> None:
    def sample(concept: str) -> KitSample:
        about = {"concept": concept, "kind": "emoji", "family": "noto", "canonical": True}
        return KitSample("k", b"", (concept,), about)

    sets = strict_sets(frozenset({"whale"}))
    assert len(sets) == sum(split == "test_concepts" for split, _ in TEST_SETS.values()) > 0
    split, expected = sets["concepts emoji, strict"]
    assert split == "test_concepts" and expected(sample("squid")) and not expected(sample("Whale"))
    assert not sets["concepts icon, strict"][1](sample("squid"))
