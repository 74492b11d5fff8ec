"""What stands on the page: escaped, complete, and marked where models differ."""

import re

from PIL import Image

from tinyclip_demo import render
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.service import ClassifyResult, Hit, IndexProgress, SearchResult
from tinyclip_edge.runtime.protocol import EmbedderSpec

EVIL = "<img src=x onerror=alert(1)>&\"'"


class Facts:
    def __init__(
        self, name, parameters=2_000_000, size=8_000_000, runtime="torch", precision="fp32"
    ):
        self.name = name
        self.spec = EmbedderSpec(64, 2, parameters, 10, size, runtime, precision)


def result(model, labels, probabilities, agrees, times=(0.5, 2.0, 3.0)):
    return ClassifyResult(model, labels, probabilities, agrees, *times)


def gallery(captions):
    return Gallery("g", tuple(Image.new("RGB", (4, 4)) for _ in captions), tuple(captions))


def test_nothing_a_user_writes_reaches_the_page_as_markup():
    models = [Facts(EVIL), Facts("b")]
    pictures = gallery([EVIL, EVIL])
    pages = [
        render.header([EVIL, "b"], models, pictures),
        render.classification(
            [
                result(EVIL, (EVIL, "b"), (0.9, 0.1), True),
                result("b", (EVIL, "b"), (0.1, 0.9), False),
            ],
            models,
        ),
        render.search([SearchResult(EVIL, (Hit(0, 0.5, 1, 1),), 1.0, 1.0, 1.0, 1.0)], pictures),
        render.progress(IndexProgress(0, 1, 2), [EVIL]),
        render.problem(EVIL),
        render.hint(EVIL),
        render.chips(EVIL, [EVIL]),
        render.example_pictures(pictures, [0]),
    ]
    for page in pages:
        assert "<img src=x" not in page
        assert "&lt;img src=x onerror" in page


def test_cards_show_runtime_precision_parameters_and_megabytes():
    models = [Facts("teacher"), Facts("edge", 1_000_000, 1_200_000, "onnxruntime", "int8")]
    page = render.header(["teacher", "edge"], models, gallery(["a"]))
    for text in ("PyTorch", "ONNX Runtime", "int8", "2.00 M", "1.00 M", "8.0 MB", "1.2 MB"):
        assert text in page
    # half the parameters; 1.2 of 8 MB is 15 %, so 85 % less
    assert "−50%" in page
    assert "−85%" in page


def test_agreement_and_difference_are_marked():
    labels = ("cat", "dog")
    same = [result("a", labels, (0.9, 0.1), True), result("b", labels, (0.8, 0.2), True)]
    models = [Facts("a"), Facts("b")]
    assert "Both models say <b>cat</b>" in render.classification(same, models)
    other = [same[0], result("b", labels, (0.3, 0.7), False)]
    page = render.classification(other, models)
    assert "a says <b>cat</b>; b says <b>dog</b>" in page
    assert '<em class="no">differs</em>' in page
    three = [*other, result("c", labels, (0.1, 0.9), False)]
    page = render.classification(three, [*models, Facts("c")])
    assert "a says <b>cat</b>; b, c say <b>dog</b>" in page


def test_many_labels_are_cut_but_every_model_s_best_is_shown():
    labels = tuple(f"label {i}" for i in range(30))
    first = (0.71,) + (0.01,) * 29
    last = (0.01,) * 29 + (0.71,)
    page = render.classification(
        [result("a", labels, first, True), result("b", labels, last, False)],
        [Facts("a"), Facts("b")],
    )
    assert re.findall(r'scope="row">(label \d+)', page)[-1] == "label 29"
    assert len(re.findall(r'scope="row">label', page)) == 10
    assert "20 more labels, none above 1.0 %" in page


def test_latency_is_split_and_says_what_was_not_measured():
    page = render.classification(
        [result("a", ("x", "y"), (0.6, 0.4), True, (None, 123.4, None))], [Facts("a")]
    )
    assert "within encode" in page
    assert "123 ms" in page
    assert "cached" in page


def test_ranks_that_differ_are_badged():
    hits = (Hit(0, 0.9, 1, 3), Hit(1, 0.8, 2, 1), Hit(2, 0.7, 3, 7))
    reference = tuple(Hit(i, 0.9, i + 1, i + 1) for i in range(3))
    page = render.search(
        [
            SearchResult("a", reference, 1.0, 1.0, 0.1, 2.0),
            SearchResult("b", hits, 2 / 3, 1.0, 0.1, 2.0),
        ],
        gallery(["x", "y", "z"]),
        unreadable=1,
    )
    strip = page.split('data-model="b"')[1].split("tc-legend")[0]
    assert re.findall(r'tc-delta (\w+)">([^<]+)<', strip) == [
        ("up", "▲2"),
        ("down", "▼1"),
        ("new", "#7"),
    ]
    assert "overlap@3: 2 of 3" in strip
    assert "1 broken picture left out" in page
    assert "tc-delta" not in page.split('data-model="b"')[0]


def test_progress_shows_models_done_running_and_waiting():
    page = render.progress(IndexProgress(1, 50, 200), ["a", "b", "c"])
    assert re.findall(r"width:([\d.]+)%", page) == ["100.0", "25.0", "0.0"]
