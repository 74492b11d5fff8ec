"""Tailoring sixty pictures of the starter kit: killed in its training, gone on with, opened."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

import tinyclip_edge
from tinyclip_edge.config import load_config
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.runtime.classifier import EdgeClassifier
from tinyclip_edge.starter import kit_path
from tinyclip_edge.starter.kit import read_split
from tinyclip_edge.tailoring import runs

CONCEPTS, EACH = 20, 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three pictures of each of twenty concepts, in folders that name them, and the labels."""
    place = tmp_path_factory.mktemp("own")
    by_concept: dict[str, list[bytes]] = defaultdict(list)
    for sample in read_split(kit_path(), "train"):
        by_concept[sample.concept].append(sample.webp)
    names = sorted(by_concept, key=lambda name: -len(by_concept[name]))[:CONCEPTS]
    for name in names:
        folder = place / "pictures" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for number, webp in enumerate(by_concept[name][:EACH]):
            (folder / f"{number}.webp").write_bytes(webp)
    (place / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    return place


@pytest.mark.slow
def test_from_pictures_to_a_bundle(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {
        "images": pictures / "pictures",
        "labels": pictures / "labels.txt",
        "out": "bundles/mine",
        "max_mb": 3,
        "max_ms": 1000,
        "minutes": 0.3,
        "candidates": 2,
    }
    distil, calls = runs.distill, []

    def dies_in_the_second_rung(*arguments, **values):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return distil(*arguments, **values)

    monkeypatch.setattr(runs, "distill", dies_in_the_second_rung)
    with pytest.raises(KeyboardInterrupt):
        tinyclip_edge.tailor(**options)
    work = Path("runs/tailor-mine")
    before = json.loads((work / "contest.json").read_text())
    assert len(before["rungs"][0]["seconds"]) == 2 and len(before["rungs"][1]["seconds"]) == 1
    assert not Path("bundles").exists()
    with pytest.raises(ConfigError, match="add --resume to go on with it"):
        tinyclip_edge.tailor(**options)
    with pytest.raises(ConfigError, match="was begun with another max_mb"):
        tinyclip_edge.tailor(**{**options, "max_mb": 2}, resume=True)
    lines: list[str] = []
    report = tinyclip_edge.tailor(**options, resume=True, callback=lines.append)
    after = json.loads((work / "contest.json").read_text())
    assert after["rungs"][0] == before["rungs"][0]  # nothing was trained twice
    first = before["rungs"][1]["names"][0]
    assert after["rungs"][1]["seconds"][first] == before["rungs"][1]["seconds"][first]

    entries = {entry.name: entry for entry in report.entries}
    candidates = [entry for entry in report.entries if entry.kind == "candidate"]
    assert len(candidates) == 2 and all(entry.mb <= 3 for entry in candidates)
    assert entries["teacher"].mb > 10 and entries["bundle"].mb <= 3.1
    assert entries["bundle"].top1 > 0.6  # of the teacher's labels; 1 in 20 by chance
    assert entries["bundle"].accuracy > 0.6 and entries["bundle"].top1 <= 1
    assert report.train_pictures + report.held_out == CONCEPTS * EACH
    page = report.page.read_text()
    assert report.winner in page and page.count("<svg") == 2
    assert report.page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    classifier = EdgeClassifier.load("bundles/mine")
    own = sorted((pictures / "pictures").rglob("*.webp"))
    answers = [classifier.classify(picture)[0][0].replace(" ", "_") for picture in own]
    right = sum(a == p.parent.name for a, p in zip(answers, own, strict=True))
    assert right > 0.7 * len(own)

    # A person goes on by hand with what it has written.
    written = load_config(work / "configurations" / f"{report.winner}.yaml")
    assert written.student.model is not None and written.inherit.text == "frozen"
    assert written.optim.steps == next(e.steps for e in candidates if e.name == report.winner)
    assert str(work / "configurations") in report.commands[0]

    # A second look finds everything done, but not where a picture has changed.
    again = tinyclip_edge.tailor(**options, resume=True)
    assert again.as_dict()["winner"] == report.winner
    changed = pictures / "pictures" / own[0].relative_to(pictures / "pictures")
    content = changed.read_bytes()
    changed.unlink()
    try:
        with pytest.raises(DataError, match="has changed since its pictures were listed"):
            tinyclip_edge.tailor(**options, resume=True)
    finally:
        changed.write_bytes(content)


@pytest.mark.slow
def test_a_budget_below_the_smallest_shape(pictures, tmp_path):
    options = {"images": pictures / "pictures", "labels": pictures / "labels.txt"}
    with pytest.raises(ConfigError, match=r"takes 0\.\d\d MB .* here; use --max-mb 0\.\d\d, or"):
        tinyclip_edge.tailor(
            **options, out=tmp_path / "out", work=tmp_path / "work", max_mb=0.05, max_ms=1e6
        )
    assert list(tmp_path.iterdir()) == []
