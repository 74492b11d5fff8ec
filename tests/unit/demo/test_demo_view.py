"""What stands on the page: escaped, complete, and marked where models differ."""

import re
from dataclasses import replace

import numpy as np
import pytest
from angle_model import AngleModel
from PIL import Image

from tinyclip_demo.classify import ClassifyResult
from tinyclip_demo.disagree import BY_DIVERGENCE, MiningResult
from tinyclip_demo.figures import FigureRow, MeasureReport, MeasureSettings
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.search import IndexProgress, SearchHit, SearchResult
from tinyclip_demo.view import bars, cards, hits, pairs, parts, speed
from tinyclip_edge.evaluation.latency import Latency, ModelLatency
from tinyclip_edge.runtime.protocol import EmbedderSpec

EVIL = "<img src=x onerror=alert(1)>&\"'"


def model(name, parameters=2_000_000, size=8_000_000, runtime="torch", precision="fp32"):
    toy = AngleModel(name, {}, {})
    toy.spec = EmbedderSpec(64, 2, parameters, 10, size, runtime, precision)
    return toy


def result(name, labels, probabilities, agrees, times=(0.5, 2.0, 3.0)):
    return ClassifyResult(name, labels, probabilities, agrees, *times)


def gallery(captions):
    return Gallery("g", tuple(Image.new("RGB", (4, 4)) for _ in captions), tuple(captions))


def row(name, milliseconds, size, recall, number=0):
    latency = Latency(milliseconds, milliseconds, milliseconds)
    spec = EmbedderSpec(64, 2, 1000, 10, size, "torch", "fp32")
    return FigureRow(number, name, spec, ModelLatency(latency, latency, 1, 1, 20), recall, recall)


def report(rows):
    return MeasureReport(tuple(rows), MeasureSettings(), {"processor": EVIL}, "2026-01-01", EVIL)


def mined(names, classes):
    """Two models, one pair: the first is right, the other says the second class."""
    table = {"predicted": [[0], [1]], "caption_rank": [[1], [2]]}
    arrays = {name: np.array(value) for name, value in table.items()}
    top, own = np.array([[0.9], [0.8]]), np.array([[0.9], [0.1]])
    shares = {"top_probability": top, "caption_probability": own}
    rows = {"rows": np.array([0]), "caption_classes": np.array([0]), "divergence": np.array([0.51])}
    return MiningResult(names, (0, 1), classes, **rows, **arrays, **shares)


def test_nothing_a_user_writes_reaches_the_page_as_markup():
    pictures = gallery([EVIL, EVIL])
    answers = [
        result(EVIL, (EVIL, "b"), (0.9, 0.1), True),
        result("b", (EVIL, "b"), (0.1, 0.9), False),
    ]
    hit = SearchResult(EVIL, (SearchHit(0, 0.5, 1, 1),), 1.0, 1.0, 1.0, 1.0)
    mining_result = mined((EVIL, "b"), (EVIL, "c"))
    pages = [
        cards.header(ModelRegistry([model(EVIL), model("b")])),
        bars.classification(answers),
        bars.example_pictures(pictures, [0]),
        hits.search([hit, hit], pictures, hits.text_query(EVIL)),
        hits.picture_query("data:", EVIL),
        hits.indexing(IndexProgress(0, 1, 2), [EVIL], (0,)),
        hits.gallery_line(Gallery(EVIL, (b"",), ("a",))),
        speed.measurement(report([row(EVIL, 4, 8, 0.5), row("b", 2, 4, 0.4)])),
        speed.host_line({"processor": EVIL}),
        pairs.disagreements(mining_result, mining_result.top(BY_DIVERGENCE, 1), pictures),
        parts.problem(EVIL),
        parts.hint(EVIL),
        parts.awaiting([EVIL]),
        parts.bar(EVIL, 0.5, EVIL),
        parts.chips(EVIL, [EVIL]),
    ]
    for page in pages:
        assert "<img src=x" not in page
        assert "&lt;img src=x onerror" in page


def test_the_first_line_says_what_starter_models_do_not_know():
    page = cards.header(ModelRegistry(["starter-teacher", model("student")]))
    assert "know <b>pictograms</b> by their English names, not photographs" in page
    assert "demo --teacher ViT-B-32/laion2b_s34b_b79k" in page
    assert "pictograms" not in cards.header(ModelRegistry([model("teacher"), model("b")]))


def test_cards_show_runtime_precision_parameters_and_megabytes():
    edge = model("edge", 1_000_000, 1_200_000, "onnxruntime", "int8")
    page = cards.header(ModelRegistry([model("teacher"), edge]))
    for text in ("PyTorch", "ONNX Runtime", "int8", "2.00 M", "1.00 M", "8.0 MB", "1.2 MB"):
        assert text in page
    # half the parameters; 1.2 of 8 MB is 15 %, so 85 % less
    assert "−50%" in page
    assert "−85%" in page
    assert "<b>2 of 2</b> models ready" in page
    assert re.findall(r'data-name="(\w+)" checked', page) == ["teacher", "edge"]


def test_a_card_tells_why_a_model_failed():
    registry = ModelRegistry([model("teacher"), "/no/such/folder"])
    registry.load_all()
    page = cards.header(registry)
    assert "<b>1 of 2</b> models ready" in page
    assert "no model folder /no/such/folder" in page


def test_agreement_and_difference_are_marked():
    labels = ("cat", "dog")
    same = [result("a", labels, (0.9, 0.1), True), result("b", labels, (0.8, 0.2), True)]
    assert "Both models say <b>cat</b>" in bars.classification(same)
    other = [same[0], result("b", labels, (0.3, 0.7), False)]
    page = bars.classification(other)
    assert "a says <b>cat</b>; b says <b>dog</b>" in page
    assert '<em class="no">differs</em>' in page
    three = [*other, result("c", labels, (0.1, 0.9), False)]
    assert "a says <b>cat</b>; b, c say <b>dog</b>" in bars.classification(three)


def test_many_labels_are_cut_but_every_model_s_best_is_shown():
    labels = tuple(f"label {i}" for i in range(30))
    first = (0.71,) + (0.01,) * 29
    last = (0.01,) * 29 + (0.71,)
    page = bars.classification([result("a", labels, first, True), result("b", labels, last, False)])
    assert re.findall(r'scope="row">(label \d+)', page)[-1] == "label 29"
    assert len(re.findall(r'scope="row">label', page)) == 10
    assert "20 more labels, none above 1.0 %" in page


def test_labels_below_the_shown_precision_are_under_a_number():
    labels = tuple(f"label {i}" for i in range(30))
    rare = (1 - 29e-5,) + (1e-5,) * 29
    page = bars.classification([result("a", labels, rare, True)])
    assert "20 more labels, none above 0.1 %" in page


def test_latency_is_split_and_says_what_was_not_measured():
    page = bars.classification(
        [result("a", ("x", "y"), (0.6, 0.4), True, (None, 123.4, None, 0.01))]
    )
    for text in ("within encode", "123 ms", "cached", "&lt;0.1 ms", "Encode 2 labels"):
        assert text in page


def test_ranks_that_differ_are_badged_and_reported():
    results = (SearchHit(0, 0.9, 1, 3), SearchHit(1, 0.8, 2, 1), SearchHit(2, 0.7, 3, 7))
    reference = tuple(SearchHit(i, 0.9, i + 1, i + 1) for i in range(3))
    page = hits.search(
        [
            SearchResult("a", reference, 1.0, 1.0, 0.1, 2.0),
            SearchResult("b", results, 2 / 3, 1.0, 0.1, 0.015, index_from_disk=True),
        ],
        gallery(["x", "y", "z"]),
        unreadable=1,
    )
    strip = page.split('data-model="b"')[1].split("tc-legend")[0]
    assert re.findall(r'tc-delta (\w+)" aria-hidden="true">([^<]+)<', strip) == [
        ("up", "▲2"),
        ("down", "▼1"),
        ("new", "#7"),
    ]
    assert 'aria-label="x, place 3 for the first model: find more like it"' in strip
    assert "overlap@3: 2 of 3" in strip
    assert "gallery encoded in 2.0 s" in page
    assert "index read from disk in 15 ms" in strip
    assert "1 broken picture left out" in page
    assert "tc-delta" not in page.split('data-model="b"')[0]


def test_progress_shows_models_done_running_and_waiting():
    page = hits.indexing(IndexProgress(1, 50, 200, (0,)), ["a", "b", "c"], (0, 1, 2))
    assert re.findall(r"width:([\d.]+)%", page) == ["100.0", "25.0", "0.0"]


def test_the_headline_of_a_measurement_is_ratios_to_the_first():
    page = speed.measurement(report([row("a", 10, 40_000_000, 0.6), row("b", 2, 8_000_000, 0.57)]))
    text = re.sub(r"<[^>]+>", "", page)
    # 10/2 ms, 40/8 MB, 57/60
    assert "b is 5.0× faster and 5.0× smaller than a, and keeps 95% of its recall@1" in text
    slower = speed.measurement(report([row("a", 2, 4_000_000, 0.5), row("b", 4, 8_000_000, 0.5)]))
    assert "2.0× slower and 2.0× larger" in re.sub(r"<[^>]+>", "", slower)


@pytest.mark.parametrize("recall", [0.57, None])
def test_the_plot_has_fast_models_first_and_accurate_ones_high(recall):
    rows = [row("a", 10, 40_000_000, recall and 0.6), row("b", 2, 8_000_000, recall)]
    page = speed.measurement(report(rows))
    positions = re.findall(r"left:([\d.]+)%;bottom:([\d.]+)%;--d:(\d+)px", page)
    (ax, ay, asize), (bx, by, bsize) = [tuple(map(float, values)) for values in positions]
    assert bx < ax and by < ay
    # areas like sizes: five to one
    assert asize**2 / bsize**2 == pytest.approx(5, rel=0.1)
    assert all(0 <= value <= 100 for value in (ax, ay, bx, by))
    side = "Recall@1, text" if recall else "Megabytes on disk"
    assert side in page


def test_one_model_that_is_measured_has_a_plot_too():
    page = speed.measurement(report([row("a", 0.004, 0, 0.0)]))
    assert "tc-bubble" in page and "not saved" in page


def test_disagreements_show_each_answer_and_the_place_of_the_caption():
    result = mined(("a", "b"), ("cat", "dog"))
    page = pairs.disagreements(result, result.top(BY_DIVERGENCE, 1), gallery(["cat"]))
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"different captions for\s+1 picture\s+of 1 \(\s*100.0%", text)
    assert re.search(r"✗\s+dog\s+80.0 % · own caption at place 2", text)
    assert re.search(r"✓\s+cat\s+90.0 %", text)
    assert "0.51" in text
    assert "No pair of this kind" in pairs.disagreements(result, [], gallery(["cat"]))


def test_a_strange_picture_is_said_above_the_answer_of_the_models_that_tell():
    known = result("a", ("cat", "dog"), (0.9, 0.1), True)
    strange = replace(known, model="b", familiar=False)
    page = bars.classification([known, strange])
    text = re.sub(r"<[^>]+>", "", page)
    assert "This picture is unlike those that b was trained on: do not rely on its labels" in text
    assert page.index("tc-unknown") < page.index("tc-verdict")
    assert "tc-verdict agree" not in page
    both = re.sub(r"<[^>]+>", "", bars.classification([strange, replace(strange, model="c")]))
    assert "those that b and c were trained on: do not rely on their labels" in both
    for familiar in (True, None):
        page = bars.classification([known, replace(known, familiar=familiar)])
        assert "tc-unknown" not in page and "tc-verdict agree" in page
    hit = SearchResult("a", (SearchHit(0, 0.5, 1, 1),), 1.0, 1.0, 1.0, 1.0)
    page = hits.search([hit, replace(hit, model="b", familiar=False)], gallery(["x"]))
    assert page.count("tc-unknown") == 1 and "<b>b</b> was trained on" in page
