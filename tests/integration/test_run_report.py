"""``tinyclip-edge report`` on toy runs: the page is whole, alone, escaped, and says the events."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest

import tinyclip_edge.train.report as report_package
from pair_shards import toy_samples, write_shard
from report_page import check_page
from tiny_bundle import write_tiny_bundle
from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.train import distill
from toy_runs import Watcher, events_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
EVIL = "<script>alert('a')</script> & co"
NAME = "<img src=x onerror=alert(1)>"  # a folder may be called so


@pytest.fixture
def report(command_line):
    """Run the command: (exit code, stdout, stderr)."""
    return partial(command_line, "report")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where the runs lie that are made once."""
    return tmp_path_factory.mktemp("reported") / "runs"


@pytest.fixture
def plain(make, folders):
    """A run without masks, with an evil caption and an evil name."""
    out = folders / NAME
    if not out.exists():
        samples = toy_samples((48,))
        samples[0][1]["txt"] = EVIL.encode()
        val = write_shard(folders.parent / "evil.tar", samples)
        distill(make(data={"val": str(val)}, run={"eval_every": 6}), out)
    return out


@pytest.fixture
def masked(make, folders):
    """Two stages: a given shape, then masks."""
    out = folders / "masked"
    if not out.exists():
        quick = {"lr": 0.4, "lambda_lr": 1.0, "log_every": 4, "warmup": 0.4, "prune": 18}
        shape = {"vision_cfg": {"layers": 3}}
        stages = [{"student": shape, "steps": 6}, {"keep": 0.4}]
        distill(
            make(
                inherit={"method": "masks"},
                optim={"steps": 26, "lr": 5e-4, "warmup": 3},
                masks={**quick, "extra": 4},
                stages=stages,
            ),
            out,
        )
    return out


def page_of(run, name="report.html"):
    return check_page((run / "report" / name).read_text(encoding="utf-8"))


def test_distill_leaves_a_page_with_the_events_in_its_tables(plain):
    page = page_of(plain)
    cells = page.cells()
    steps = events_of(plain, "step")
    assert len(steps) == 12
    for event in steps:
        assert {f"{event[key]:.4g}" for key in ("loss", "kl", "lr")} <= cells
    for event in events_of(plain, "eval"):
        assert {f"{100 * event['t2i_r1']:.1f}", f"{100 * event['zero_shot_100']:.1f}"} <= cells
    assert {"student, step 0", "student, step 6", "student, step 12", "teacher"} <= cells
    text = " ".join(page.texts)
    (start,) = events_of(plain, "run_start")
    assert f"{start['teacher_encoder_parameters']:,} in both towers" in text
    assert start["versions"]["torch"] in cells
    assert "batch_size: 16" in text  # the configuration
    assert page.of("title")[0] == {} and NAME in text
    images = page.of("img")
    assert len(images) == 6 * 2 * 5
    assert all(image["src"].startswith("data:image/webp;base64,") for image in images)


def test_the_map_says_what_was_taken(plain):
    (event,) = events_of(plain, "inherit")
    # 3 of 4 image layers and 2 of 3 text layers by the published rule; 1 of 2 heads; 256 of 512
    layers = event["taken"]["image"]["layers"]
    assert [layer["student"] for layer in layers] == [0, 1, 2, None]
    assert layers[0]["units"]["heads"] == {"of": 2, "taken": 1, "bins": [1.0, 0.0]}
    neurons = layers[0]["units"]["neurons"]
    assert (neurons["of"], neurons["taken"], len(neurons["bins"])) == (512, 256, 32)
    assert event["taken"]["text"]["shared"]["channels"]["taken"] == 64
    assert {"3 of 4: 0, 1, 2", "2 of 3: 0, 1", "1 of 2", "256 of 512"} <= page_of(plain).cells()
    assert len(json.dumps(event)) < 8000


def test_masks_are_drawn_by_the_functions_of_the_plots(masked):
    page = page_of(masked)
    titles = set(page.svgs)
    for tower in ("image", "text"):
        assert f"Heads and neurons left in the {tower} tower" in titles
        assert f"Gates of the {tower} tower by log-alpha" in titles
    assert "Sparsity against its target" in titles
    (prune,) = events_of(masked, "prune")
    assert ", ".join(str(n) for n in prune["image"]["neurons"]) in page.cells()
    assert f"{100 * prune['kept']:.1f} %" in page.cells()
    (inherited,) = events_of(masked, "inherit")
    assert (inherited["step"], inherited["stage"]) == (0, 1)


def test_captions_and_names_are_text_and_pictures_are_inside(plain, report):
    code, out, err = report(plain, "--pictures", 4, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["runs"][0]["status"] == "done" and told["runs"][0]["steps_done"] == 12
    (last,) = [e for e in events_of(plain, "eval") if e["step"] == 12]
    assert told["runs"][0]["last_accuracy"]["t2i_r1"] == last["t2i_r1"]
    page = page_of(plain)
    images = page.of("img")
    assert len(images) == 4 * 2 * 5
    assert all(image["src"].startswith("data:image/webp;base64,") for image in images)
    assert f"“{EVIL}”" in page.texts  # the first query, as text


def test_pictures_that_cannot_be_made_are_told_and_cost_nothing_else(make, tmp_path, report):
    out = tmp_path / "run"
    distill(make(data={"val": None}, optim={"steps": 2}), out)
    code, _, err = report(out)
    assert code == 0
    assert "no pictures (data.val is null" in err
    assert any("data.val is null" in text for text in page_of(out).texts)


def test_the_students_bundle_is_compared_and_another_is_not(plain, report, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    digest = weights_hash(load_clip(str(plain)).model)
    assert events_of(plain, "run_end")[0]["student_sha256"] == digest
    tower = {"cosine_min": 0.98765, "ms": 1.25}
    ranking = {"recall@1": 41.5, "recall@1_drop": 0.25, "recall@1_stderr": 0.5,
               "top1_agreement": 96.5}  # fmt: skip
    int8 = {"image": tower, "text": tower, "ranking": ranking}
    seen = {"pairs": 48, "reference_recall@1": 41.75, "precisions": {"int8": int8}}
    for name, source in (("own", digest), ("other", "ab" * 32)):
        folder = write_tiny_bundle(tmp_path / "bundles" / name).folder
        changed = {"source": {"model": "x", "sha256": source}, "verification": seen}
        replace(Manifest.read(folder), **changed).write(folder)
    code, out, _ = report(plain, "--pictures", 0, "--json")
    assert code == 0
    assert json.loads(out)["runs"][0]["bundles"] == [str(tmp_path / "bundles" / "own")]
    page = page_of(plain)
    cells = page.cells()
    assert {"1: own fp32", "2: own int8", "41.5 %", "41.8 %", "96.5 %", "0.98765"} <= cells
    assert "0.25\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.50" in cells
    assert not any("other" in cell for cell in cells)
    assert {"Accuracy against bytes", "Accuracy against latency"} <= set(page.svgs)
    away = tmp_path / "elsewhere"
    (tmp_path / "bundles").rename(away)
    found = [str(away / "own")]
    for folder in (away, away / "own"):
        _, out, _ = report(plain, "--pictures", 0, "--json", "--bundles", folder)
        assert json.loads(out)["runs"][0]["bundles"] == found
    _, out, _ = report(plain, "--pictures", 0, "--json")
    assert json.loads(out)["runs"][0]["bundles"] == []
    assert any("No bundle of this student was found" in text for text in page_of(plain).texts)


def test_several_runs_share_figures_and_differences_are_listed(plain, masked, report, tmp_path):
    code, _, err = report(plain, masked, plain)
    assert (code, err) == (0, f"report: {plain / 'report' / 'overlay.html'}\n")
    page = page_of(plain, "overlay.html")
    (differing,) = [table for table in page.tables if table[0][:1] == ["key"]]
    rows = {row[0]: row[1:] for row in differing}
    assert rows["optim.steps"] == ["12", "26", "12"]
    assert "optim.batch_size" not in rows
    assert {f"A {NAME}", "B masked", f"C {NAME}"} <= page.cells()
    target = tmp_path / "new" / "two.html"
    assert report(plain, masked, "--out", target)[0] == 0
    check_page(target.read_text())


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
    (told,) = json.loads(out)["runs"]
    assert (told["status"], told["steps_done"], told["seconds"]) == ("unfinished", 4, None)
    assert any("no end is logged" in text for text in page_of(run).texts)
    (run / "events.jsonl").write_text(lines[0])  # not a step yet
    assert report(run, "--pictures", 0)[0] == 0
    assert "No step is logged yet." in (run / "report" / "report.html").read_text()


def test_lines_that_hold_no_event_are_left_out_and_named(plain, report, tmp_path):
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
    told = f"left out (3: {', '.join(map(str, numbers))})"
    (summary,) = json.loads(out)["runs"]
    assert (summary["status"], summary["steps_done"], summary["teacher"]) == ("done", 12, None)
    texts = page_of(run).texts
    for part in (told, "the start of the run is not logged", "config.yaml is missing", "student/"):
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


def test_layers_under_quantization_are_told_worst_first(plain, report, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    layers = [{"tower": "image", "node": EVIL, "overlap": 0.8125, "kl": 0.04},
              {"tower": "text", "node": "b" * 90, "overlap": 0.9375, "kl": 0.01}]  # fmt: skip
    smooth = {"image": 0.5, "text": 0.0}
    ways = [{"kept_float": kept, "smooth": smooth if place == 1 else {}, "ms": 1.0 + kept,
             "bytes": 2_000_000 + 500_000 * kept, "drop": 1.5 - kept, "stderr": 0.5,
             "overlap": 90.0, "kl": 0.02, "chosen": kept == 1}
            for place, kept in enumerate((0, 0, 1))]  # fmt: skip
    sensitivity = {"precision": "static", "layers": layers, "pareto": ways}
    digest = events_of(plain, "run_end")[0]["student_sha256"]
    write_tiny_bundle(tmp_path / "bundles" / NAME)
    folder = tmp_path / "bundles" / NAME
    for broken in (sensitivity, {**sensitivity, "layers": [7, {}], "pareto": {}}, 3):
        changed = {"source": {"sha256": digest}, "verification": {"sensitivity": broken}}
        replace(Manifest.read(folder), **changed).write(folder)
        assert report(plain, "--pictures", 0)[0] == 0
        page = page_of(plain)
        if broken is sensitivity:
            (told,) = (table for table in page.tables if table[0][0] == "layer")
            assert told[1:] == [[f"image {EVIL}", "0.8125", "0.04"],
                                [f"text {'b' * 90}", "0.9375", "0.01"]]  # fmt: skip
            (told,) = (table for table in page.tables if table[0][0] == "layers in float")
            assert [row[:3] for row in told[1:]] == [
                ["plain", "–", "2.0"], ["0", "image 0.5, text 0", "2.0"], ["1, chosen", "–", "2.5"],
            ]  # fmt: skip
            assert {"Accuracy lost against bytes", "Accuracy lost against latency"} <= set(
                page.svgs
            )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_a_browser_shows_it_and_asks_no_host(plain, masked, report, tmp_path):
    from playwright.sync_api import sync_playwright

    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    assert report(plain, "--pictures", 1, "--out", pages[0])[0] == 0
    assert report(plain, masked, "--out", pages[1])[0] == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((390, "light"), (1200, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            asked, told = [], []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda message, told=told: told.append(message.text))
            page.on("dialog", lambda dialog, told=told: told.append(dialog.message))
            for path in pages:
                page.goto(path.as_uri())
                beyond = "document.documentElement.scrollWidth - innerWidth"
                assert page.evaluate(beyond) <= 0
                bright = page.evaluate(
                    "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
                )
                assert (bright > 200) == (scheme == "light")
                page.keyboard.press("Tab")
                assert page.evaluate("document.activeElement.closest('nav') !== null")
            assert told == []
            outside = [url for url in asked if not url.startswith("data:")]
            assert outside == [path.as_uri() for path in pages]
        browser.close()


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (None, "has no events.jsonl"),
        ("", "holds no event"),
        ("\x00\x01\n\x02\n", "holds no event"),
        ('[1]\n{"step": 0}\n{"kind": "step", "step": "1"}\n{"kind": "st', "holds no event"),
        ('{"kind": "step", "step": 1e400}\n{"kind": "gates", "step": 1, "image": 3}\n',
         "holds no event"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused_in_one_line(report, tmp_path, events, told):
    run = tmp_path / "run"
    run.mkdir()
    if events is not None:
        (run / "events.jsonl").write_text(events)
    code, _, err = report(run)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and told in err
    assert not (run / "report").exists()


def test_bad_paths_are_refused_in_one_line(report, plain, tmp_path):
    for words, told in (
        ([tmp_path / "none"], "there is no such folder"),
        ([plain, "--out", tmp_path], "is a folder"),
        ([plain, "--pictures", 0, "--out", plain / "config.yaml" / "x.html"], "cannot be written"),
        ([plain] * 9, "9 runs are too many"),
        ([plain, "--bundles", tmp_path / "none"], "holds no bundles"),
    ):
        code, _, err = report(*words)
        assert code == 2 and err.count("\n") == 1 and told in err


def test_a_report_that_fails_fails_no_run(make, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no\nfonts")

    monkeypatch.setattr(report_package, "write_report", broken)
    seen = Watcher()
    result = distill(make(optim={"steps": 2}), tmp_path / "run", observer=seen)
    assert result.student.is_dir()
    assert "report not written (RuntimeError: no fonts)" in seen.messages
