"""Tailoring sixty pictures of the starter kit: killed in its training, gone on with, opened."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tinyclip_edge
from kit_part import write_own_pictures
from tinyclip_edge.config import load_config
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.runtime.classifier import EdgeClassifier
from tinyclip_edge.tailoring import runs

if TYPE_CHECKING:
    from tinyclip_edge.tailoring.report import TailorReport

CONCEPTS, EACH = 20, 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three pictures of each of twenty concepts, in folders that name them, and the labels."""
    return write_own_pictures(tmp_path_factory.mktemp("own"), concepts=CONCEPTS, each=EACH)


class KilledError(Exception):
    """Stands for kill -9 in the fourth training, the second of the first rung."""


@pytest.fixture(scope="module")
def options(pictures) -> dict[str, Any]:
    """A tailoring of seconds; milliseconds do not matter, as the machine may be busy."""
    return {
        "images": pictures / "pictures",
        "labels": pictures / "labels.txt",
        "out": pictures / "bundles" / "mine",
        "work": pictures / "work",
        "max_mb": 3,
        "max_ms": 1e6,
        "minutes": 0.1,
        "candidates": 2,
    }


@pytest.fixture(scope="module")
def tailored(options, towers_exported_once) -> tuple[TailorReport, dict[str, Any], dict[str, Any]]:
    """The report of a tailoring that was killed once, and its record before and after that."""
    distil, calls = runs.distill, []

    def dies(*arguments, **values):
        calls.append(arguments)
        if len(calls) == 4:
            raise KilledError
        return distil(*arguments, **values)

    record = options["work"] / "training.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "distill", dies)
        with pytest.raises(KilledError):
            tinyclip_edge.tailor(**options)
        before = json.loads(record.read_text())
        assert not options["out"].exists()
        report = tinyclip_edge.tailor(**options, resume=True)
    return report, before, json.loads(record.read_text())


@pytest.mark.slow
def test_a_killed_one_goes_on_where_it_stood(tailored):
    _, before, after = tailored
    assert [len(rung["seconds"]) for rung in before["rungs"]] == [2, 1]
    assert [len(rung["seconds"]) for rung in after["rungs"]] == [2, 2, 1]
    assert after["rungs"][0] == before["rungs"][0]
    first = before["rungs"][1]["names"][0]
    for kind in ("seconds", "scores", "step_seconds"):
        assert after["rungs"][1][kind][first] == before["rungs"][1][kind][first]


@pytest.mark.slow
def test_the_bundle_fits_and_answers_like_the_teacher(tailored, options):
    report, *_ = tailored
    entries = {entry.name: entry for entry in report.entries}
    candidates = [entry for entry in report.entries if entry.kind == "candidate"]
    assert len(candidates) == 2 and all(entry.mb <= 3 for entry in candidates)
    shipped = sum((options["out"] / name).stat().st_size for name in report.ship)
    assert entries["bundle"].mb == shipped / 1e6 <= 3.1 and entries["teacher"].mb > 10
    assert entries["bundle"].top1 > 0.6  # of the teacher's labels; 1 in 20 by chance
    assert entries["bundle"].accuracy > 0.6  # the folders name the labels
    assert report.train_pictures + report.held_out == CONCEPTS * EACH
    classifier = EdgeClassifier.load(options["out"])
    own = sorted(options["images"].rglob("*.webp"))
    answers = [classifier.classify(picture)[0][0].replace(" ", "_") for picture in own]
    assert sum(a == p.parent.name for a, p in zip(answers, own, strict=True)) > 0.7 * len(own)


@pytest.mark.slow
def test_it_leaves_a_page_and_what_a_person_goes_on_with(tailored, options):
    report, *_ = tailored
    page = report.page.read_text()
    assert report.winner in page and page.count("<svg") == 2
    assert report.page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    written = load_config(options["work"] / "configurations" / f"{report.winner}.yaml")
    steps = next(entry.steps for entry in report.entries if entry.name == report.winner)
    assert (written.optim.steps, written.inherit.text) == (steps, "frozen")
    distil, words = map(shlex.split, report.commands)
    assert words[words.index("export") + 1] == distil[distil.index("--out") + 1]
    assert Path(words[words.index("--out") + 1]) != options["out"]  # that bundle is there already
    assert all(Path(words[words.index(key) + 1]).is_file() for key in (
        "--labels", "--templates", "--data", "--trim-vocab",
    ))  # fmt: skip


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tailored, options, monkeypatch):
    report, *_ = tailored
    monkeypatch.setattr(runs, "distill", pytest.fail)
    again = tinyclip_edge.tailor(**options, resume=True)
    assert (again.winner, again.ship) == (report.winner, report.ship)
    changed = next(options["images"].rglob("*.webp"))
    content = changed.read_bytes()
    changed.unlink()
    try:
        with pytest.raises(DataError, match="deleted or changed since they were listed"):
            tinyclip_edge.tailor(**options, resume=True)
    finally:
        changed.write_bytes(content)


@pytest.mark.slow
def test_a_budget_below_the_smallest_shape(pictures, tmp_path, towers_exported_once):
    options = {"images": pictures / "pictures", "labels": pictures / "labels.txt"}
    with pytest.raises(ConfigError, match=r"takes 0\.\d\d MB .* here; use --max-mb 0\.\d\d, or"):
        tinyclip_edge.tailor(
            **options, out=tmp_path / "out", work=tmp_path / "work", max_mb=0.05, max_ms=1e6
        )
    assert list(tmp_path.iterdir()) == []
