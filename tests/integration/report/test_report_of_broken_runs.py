"""``tinyclip-edge report`` of what is cut short, damaged, old or no run at all."""

from __future__ import annotations

import json
import shutil

import pytest

import tinyclip_edge.report as report_package
from report_page import page_of
from tinyclip_edge.train import distill
from toy_runs import Watcher


def test_pictures_that_cannot_be_created_are_reported_and_cost_nothing_else(make, tmp_path, report):
    out = tmp_path / "run"
    distill(make(data={"val": None}, optim={"steps": 2}), out)
    code, _, err = report(out)
    assert code == 0
    assert "no pictures (data.val is null" in err
    assert any("data.val is null" in text for text in page_of(out).texts)


def test_a_run_cut_short_is_reported_as_far_as_it_came(plain, report, tmp_path):
    run = tmp_path / "cut"
    shutil.copytree(plain, run)
    lines = (run / "events.jsonl").read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if '"step": 5' in line)
    (run / "events.jsonl").write_text("\n".join([*lines[:place], lines[place][:40]]))
    for part in ("student", "report"):
        shutil.rmtree(run / part)
    code, out, err = report(run, "--json")
    assert code == 0 and "no pictures" in err
    (summary,) = json.loads(out)["runs"]
    assert (summary["status"], summary["steps_done"], summary["seconds"]) == ("unfinished", 4, None)
    assert any("no end was logged" in text for text in page_of(run).texts)
    (run / "events.jsonl").write_text(lines[0])  # not a step yet
    assert report(run, "--pictures", 0)[0] == 0
    assert "No steps have been logged yet." in (run / "report" / "report.html").read_text()


def test_lines_that_hold_no_event_are_skipped_and_named(plain, report, tmp_path):
    run = tmp_path / "spoilt"
    run.mkdir()
    lines = (plain / "events.jsonl").read_text().splitlines()
    (place,) = (i for i, line in enumerate(lines) if '"kind": "inherit"' in line)
    spoilt = [*lines[:3], "nonsense", '{"kind": "step", "step": "1"}', *lines[3:]]
    spoilt[0] = spoilt[0].replace("run_start", "run_stat")  # of another version
    spoilt[spoilt.index(lines[place])] = '{"kind": "inherit", "step": 0, "taken": 3}'
    (run / "events.jsonl").write_text("\n".join(spoilt))
    code, out, err = report(run, "--pictures", 0, "--json")
    assert code == 0
    numbers = sorted([4, 5, place + 1 + (2 if place >= 3 else 0)])
    note = f"ignored (3: {', '.join(map(str, numbers))})"
    (summary,) = json.loads(out)["runs"]
    assert (summary["status"], summary["steps_done"], summary["teacher"]) == ("done", 12, None)
    texts = page_of(run).texts
    for part in (note, "the start of the run was not logged", "config.yaml is missing", "student/"):
        assert part.lower() in err.lower() and any(
            part in missing for missing in summary["missing"]
        )
        assert any(part.lower() in text.lower() for text in texts)


def test_events_of_an_older_version_are_enough(report, tmp_path):
    run = tmp_path / "old"
    run.mkdir()
    events = [
        {"kind": "run_start", "step": 0},
        {"kind": "eval", "step": 0, "who": "student"},
        *({"kind": "step", "step": step, "loss": 2.0 / step} for step in (1, 2)),
        {"kind": "step", "step": 3},
        {"kind": "prune", "step": 3, "image": {"heads": [1], "neurons": [2]},
         "text": {"heads": [1], "neurons": [2]}},
        {"kind": "eval", "step": 3, "who": "student", "t2i_r1": 0.5},
        {"kind": "run_end", "step": 3, "status": "interrupted"},
    ]  # fmt: skip
    (run / "events.jsonl").write_text("\n".join(json.dumps(event) for event in events))
    assert report(run, "--pictures", 0)[0] == 0
    page = page_of(run)
    assert any("can be resumed" in text for text in page.texts)
    assert {"50.0", "student, step 3", "step 3, image tower"} <= page.cells()
    assert report(run, run)[0] == 0
    assert "A old" in page_of(run, "overlay.html").cells()


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (None, "has no events.jsonl"),
        ("", "has no events:"),
        ("\x00\x01\n\x02\n", "has no events:"),
        ('[1]\n{"step": 0}\n{"kind": "step", "step": "1"}\n{"kind": "st', "has no events:"),
        ('{"kind": "step", "step": 1e400}\n{"kind": "gates", "step": 1, "image": 3}\n',
         "has no events:"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused_in_one_line(report, tmp_path, events, message):
    run = tmp_path / "run"
    run.mkdir()
    if events is not None:
        (run / "events.jsonl").write_text(events)
    code, _, err = report(run)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (run / "report").exists()


def test_bad_paths_are_refused_in_one_line(report, plain, tmp_path):
    for words, message in (
        ([tmp_path / "none"], "it does not exist"),
        ([plain, "--out", tmp_path], "is a folder"),
        ([plain, "--pictures", 0, "--out", plain / "config.yaml" / "x.html"], "cannot write"),
        ([plain] * 9, "9 runs are too many"),
        ([plain, "--bundles", tmp_path / "none"], "does not exist"),
    ):
        code, _, err = report(*words)
        assert code == 2 and err.count("\n") == 1 and message in err


def test_a_report_is_not_written_through_a_link(report, plain, tmp_path):
    run, victim = tmp_path / "linked", tmp_path / "victim"
    shutil.copytree(plain, run)
    victim.write_text("precious")
    (run / "report" / "report.html.part").symlink_to(victim)
    code, _, err = report(run, "--pictures", 0)
    assert code == 2
    assert "report.html.part leads to another place" in err
    assert victim.read_text() == "precious"
    assert report(run, "--pictures", 0, "--out", tmp_path / "page.html")[0] == 0
    shutil.rmtree(run / "report")
    (tmp_path / "elsewhere").mkdir()
    (run / "report").symlink_to(tmp_path / "elsewhere")
    code, _, err = report(run, "--pictures", 0)
    assert code == 2 and "report is a link; name the page with --out" in err
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_report_that_fails_fails_no_run(make, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no\nfonts")

    monkeypatch.setattr(report_package, "write_report", broken)
    watcher = Watcher()
    result = distill(make(optim={"steps": 2}), tmp_path / "run", observer=watcher)
    assert result.student.is_dir()
    assert "report not written (RuntimeError: no fonts)" in watcher.messages
