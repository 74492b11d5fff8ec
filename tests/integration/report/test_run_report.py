"""``tinyclip-edge report`` on toy runs: the page is whole, alone, escaped, and says the events."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from pair_shards import toy_samples, write_shard
from report_page import EVIL, NAME, Page, check_page, page_of
from tiny_bundle import write_tiny_bundle
from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.report.html import table
from tinyclip_edge.runtime.bundle import Manifest
from toy_runs import events_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


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


def test_the_page_starts_with_the_accuracy_against_the_teachers(plain):
    page = page_of(plain)
    *_, student = events_of(plain, "eval")
    (teacher,) = [event for event in events_of(plain, "eval") if event["who"] == "teacher"]
    line = "".join(page.texts[page.texts.index("Text to image R@1: ") :][:4])
    share = student["t2i_r1"] / teacher["t2i_r1"]
    assert line == f"Text to image R@1: {100 * student['t2i_r1']:.1f} %, {share:.0%}"
    assert page.ids.index("accuracy") < page.ids.index("about")


def test_tables_of_several_columns_are_lists_on_a_phone():
    cells = [["a", "1", "–", "3"], ["b", "4", "5", "6"]]
    page = Page(table(["name", "x", "y", "z"], cells, "Some numbers"))
    assert page.of("table") == [{"role": "table", "class": "listed"}]
    labels = [values["data-label"] for values in page.of("td")]
    assert labels == ["x", "y", "z"] * 2
    assert [values.get("class") for values in page.of("td")] == [None, "none", *[None] * 4]
    for rows, head in ((cells * 7, ["name", "x", "y", "z"]), ([["a", "1"]], ["name", "x"])):
        page = Page(table(head, rows, "Many rows, or two columns"))
        assert page.of("table") == [{}] and page.of("td")[0] == {}


def test_the_map_says_what_was_inherited(plain):
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


@pytest.mark.slow
def test_masks_are_plotted_by_the_functions_of_the_plots(masked):
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
    printed = json.loads(out)
    assert printed["runs"][0]["status"] == "done" and printed["runs"][0]["steps_done"] == 12
    (last,) = [e for e in events_of(plain, "eval") if e["step"] == 12]
    assert printed["runs"][0]["last_accuracy"]["t2i_r1"] == last["t2i_r1"]
    page = page_of(plain)
    images = page.of("img")
    assert len(images) == 4 * 2 * 5
    assert all(image["src"].startswith("data:image/webp;base64,") for image in images)
    assert f"“{EVIL}”" in page.texts  # the first query, as text


def test_the_students_bundle_is_compared_and_another_is_not(plain, report, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    digest = weights_hash(load_clip(str(plain)).model)
    assert events_of(plain, "run_end")[0]["student_sha256"] == digest
    tower = {"cosine_min": 0.98765, "ms": 1.25}
    ranking = {"recall@1": 41.5, "recall@1_drop": 0.25, "recall@1_stderr": 0.5,
               "top1_agreement": 96.5}  # fmt: skip
    int8 = {"image": tower, "text": tower, "ranking": ranking}
    verification = {"pairs": 48, "reference_recall@1": 41.75, "precisions": {"int8": int8}}
    for name, source in (("own", digest), ("other", "ab" * 32)):
        folder = write_tiny_bundle(tmp_path / "bundles" / name).folder
        changed = {"source": {"model": "x", "sha256": source}, "verification": verification}
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
    bundles = [str(away / "own")]
    for folder in (away, away / "own"):
        _, out, _ = report(plain, "--pictures", 0, "--json", "--bundles", folder)
        assert json.loads(out)["runs"][0]["bundles"] == bundles
    _, out, _ = report(plain, "--pictures", 0, "--json")
    assert json.loads(out)["runs"][0]["bundles"] == []
    assert any("No bundle of this student was found" in text for text in page_of(plain).texts)


def test_several_runs_share_figures_and_differences_are_listed(plain, short, report, tmp_path):
    code, _, err = report(plain, short, plain)
    assert (code, err) == (0, f"report: {plain / 'report' / 'overlay.html'}\n")
    page = page_of(plain, "overlay.html")
    (differing,) = [table for table in page.tables if table[0][:1] == ["key"]]
    rows = {row[0]: row[1:] for row in differing}
    assert rows["optim.steps"] == ["12", "3", "12"]
    assert "optim.batch_size" not in rows
    assert {f"A {NAME}", "B short", f"C {NAME}"} <= page.cells()
    assert not any("Which is best" in text for text in page.texts)
    val = tmp_path / "val.tar"
    write_shard(val, toy_samples((6,)))
    code, _, err = report(plain, short, "--data", val)
    assert (code, err) == (0, f"report: {plain / 'report' / 'overlay.html'}\n")
    page = page_of(plain, "overlay.html")
    (ranked,) = [table for table in page.tables if table[0][:2] == ["", "place"]]
    assert sorted(row[0] for row in ranked[1:]) == sorted([NAME, "short"])
    target = tmp_path / "new" / "two.html"
    assert report(plain, short, "--out", target)[0] == 0
    check_page(target.read_text())


def test_layers_under_quantization_are_reported_worst_first(plain, report, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    layers = [{"tower": "image", "node": EVIL, "overlap": 0.8125, "kl": 0.04},
              {"tower": "text", "node": "b" * 90, "overlap": 0.9375, "kl": 0.01}]  # fmt: skip
    smooth = {"image": 0.5, "text": 0.0}
    ways = [{"kept_float": count, "smooth": smooth if place == 1 else {}, "ms": 1.0 + count,
             "bytes": 2_000_000 + 500_000 * count, "drop": 1.5 - count, "stderr": 0.5,
             "overlap": 90.0, "kl": 0.02, "chosen": count == 1}
            for place, count in enumerate((0, 0, 1))]  # fmt: skip
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
            (ranked,) = (table for table in page.tables if table[0][0] == "layer")
            assert ranked[1:] == [[f"image {EVIL}", "0.8125", "0.04"],
                                [f"text {'b' * 90}", "0.9375", "0.01"]]  # fmt: skip
            (ranked,) = (table for table in page.tables if table[0][0] == "layers in float")
            assert [row[:3] for row in ranked[1:]] == [
                ["plain", "–", "2.0"], ["0", "image 0.5, text 0", "2.0"], ["1, chosen", "–", "2.5"],
            ]  # fmt: skip
            assert {"Accuracy lost against bytes", "Accuracy lost against latency"} <= set(
                page.svgs
            )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_a_browser_shows_it_and_asks_no_host(plain, short, report, tmp_path):
    from playwright.sync_api import sync_playwright

    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    assert report(plain, "--pictures", 1, "--out", pages[0])[0] == 0
    assert report(plain, short, "--out", pages[1])[0] == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((390, "light"), (1200, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            requests, errors = [], []
            page.on("request", lambda request, requests=requests: requests.append(request.url))
            page.on("console", lambda message, errors=errors: errors.append(message.text))
            page.on("dialog", lambda dialog, errors=errors: errors.append(dialog.message))
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
            assert errors == []
            outside = [url for url in requests if not url.startswith("data:")]
            assert outside == [path.as_uri() for path in pages]
        browser.close()
