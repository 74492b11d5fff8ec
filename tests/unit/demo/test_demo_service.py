"""Classify and search, by hand: two-dimensional features, angles one can add up."""

import threading

import numpy as np
import pytest
from angle_model import BLUE, GREEN, RED, AngleModel, square, unit

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_demo.texts import fill_template, parse_labels, parse_templates
from tinyclip_demo.view import bars
from tinyclip_edge.errors import ConfigError, DataError

BOTH = (0, 1)


def test_probabilities_are_the_softmax_of_scaled_cosines(service):
    first, other = service.classify(square(RED), "red, green, blue", "{}", BOTH)
    # first: cosines 1, 1/2, -1 times 10 -> e^0, e^-5, e^-20 over their sum
    total = 1 + np.exp(-5) + np.exp(-20)
    expected = [1 / total, np.exp(-5) / total, np.exp(-20) / total]
    assert first.probabilities == pytest.approx(expected, abs=1e-6)
    assert (first.best, first.agrees) == ("red", True)
    # other: red lies at 50 degrees, 10 from green and 50 from red
    assert (other.best, other.agrees) == ("green", False)
    assert sum(other.probabilities) == pytest.approx(1, abs=1e-6)


def test_the_first_selected_model_is_the_reference(service):
    (other,) = service.classify(square(RED), "red, green", "{}", (1,))
    assert (other.model, other.number, other.agrees) == ("other", 1, True)


def test_the_template_reaches_the_model_and_labels_stay_as_written(service, models):
    first, _ = service.classify(square(RED), "red, green", "a {} thing", BOTH)
    assert models[0].text_calls == [("a red thing", "a green thing")]
    assert first.labels == ("red", "green")
    # "a red thing" is at 60, "a green thing" at 90: cosines 1/2 and 0 times 10
    assert first.probabilities[0] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-6)


def test_several_templates_are_averaged(service):
    first, _ = service.classify(square(RED), "red, blue", "{} | a {} thing", BOTH)
    # red: between 0 and 60 degrees; blue: between 180 and 90, for an unknown phrase is at 90
    red, blue = np.cos(np.deg2rad(30)), np.cos(np.deg2rad(135))
    assert first.probabilities[0] == pytest.approx(1 / (1 + np.exp(10 * (blue - red))), abs=1e-6)


def test_a_model_with_a_bias_judges_every_label_alone(service, models):
    models[0].manifest = type("Manifest", (), {"logit_bias": -5.0})()
    first, _ = service.classify(square(RED), "red, green", "{}", BOTH)
    # sigmoid of 10 - 5 and of 5 - 5
    assert first.probabilities == pytest.approx([1 / (1 + np.exp(-5)), 0.5], abs=1e-6)


def test_labels_are_encoded_once_per_list(service, models):
    first_time = service.classify(square(RED), "red, green", "{}", BOTH)
    again = service.classify(square(BLUE), "red, green", "{}", BOTH)
    assert models[0].text_calls == [("red", "green")]
    assert first_time[0].text_ms is not None
    assert again[0].text_ms is None
    service.classify(square(RED), "red, blue", "{}", BOTH)
    assert models[0].text_calls[-1] == ("red", "blue")


def test_preprocessing_is_distinguished_where_the_model_shows_it(service, models):
    class Fit:
        def pixels(self, image):
            return np.asarray(image)

    models[1].preprocess = Fit()
    models[1].encode_image = lambda images: unit([0] * len(images))
    first, other = service.classify(square(RED), "red, green", "{}", BOTH)
    assert first.preprocess_ms is None
    assert min(other.preprocess_ms, other.image_ms, other.compare_ms) >= 0


def test_search_ranks_by_cosine_and_counts_what_is_shared(service, gallery):
    first, other = service.searcher.search("red", 2, gallery, BOTH)
    # first has red 0, green 30, blue 100 degrees away; other has green 10, red 50, blue 100
    assert [(hit.index, hit.rank) for hit in first.hits] == [(0, 1), (1, 2)]
    assert [hit.score for hit in first.hits] == pytest.approx([1, np.cos(np.pi / 6)], abs=1e-6)
    assert [(hit.index, hit.reference_rank) for hit in other.hits] == [(1, 2), (0, 1)]
    assert (first.overlap, other.overlap) == (1, 1)


def test_a_picture_asks_as_well_as_a_text(service, gallery):
    first, other = service.searcher.search(square(BLUE), 2, gallery, BOTH)
    # blue itself, then green: 70 degrees away in the first model, red 50 in the other
    assert [hit.index for hit in first.hits] == [2, 1]
    assert [hit.index for hit in other.hits] == [2, 0]
    assert other.overlap == 0.5


def test_overlap_counts_only_the_pictures_shown(service, gallery):
    _, other = service.searcher.search("red", 1, gallery, BOTH)
    assert (other.hits[0].index, other.hits[0].reference_rank, other.overlap) == (1, 2, 0)


def test_more_pictures_than_the_gallery_has_are_all_of_them(service, gallery):
    first, _ = service.searcher.search("red", 50, gallery, BOTH)
    assert [hit.index for hit in first.hits] == [0, 1, 2]


def test_the_gallery_is_encoded_once_per_model(service, gallery, models):
    steps = list(service.searcher.indexing(gallery, BOTH))
    assert [(step.number, step.encoded, step.total) for step in steps] == [(0, 3, 3), (1, 3, 3)]
    service.searcher.search("red", 3, gallery, BOTH)
    service.searcher.search("blue", 3, gallery, BOTH)
    assert list(service.searcher.indexing(gallery, BOTH)) == []
    assert [model.image_calls for model in models] == [[3], [3]]


def test_two_callers_share_the_encoding(models):
    gallery = Gallery("many", (square(RED),) * 200, ("red",) * 200)
    searcher = DemoService(ModelRegistry(models), gallery).searcher
    arguments = ("red", 5, gallery, BOTH)
    callers = [threading.Thread(target=searcher.search, args=arguments) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [sum(model.image_calls) for model in models] == [200, 200]


def test_pictures_that_do_not_decode_are_skipped(service):
    gallery = Gallery("broken", (square(RED), b"junk", square(GREEN)), ("red", "junk", "green"))
    first, _ = service.searcher.search("red", 3, gallery, BOTH)
    assert [hit.index for hit in first.hits] == [0, 2]
    assert service.searcher.unreadable(gallery, 0) == 1


def test_a_gallery_without_any_picture_that_decodes(service):
    gallery = Gallery("broken", (b"junk",), ("junk",))
    with pytest.raises(DataError, match="no picture that decodes"):
        service.searcher.search("red", 3, gallery, BOTH)


def test_labels_split_at_commas_and_lines():
    assert parse_labels(" cat,dog\n\n red   panda ,cat,") == ("cat", "dog", "red panda")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "no labels"),
        (" , \n ,", "no labels"),
        ("cat", "only one label"),
        ("cat, cat", "only one label"),
        ([f"label {i}" for i in range(201)], "201 labels are too many"),
        (["cat", "x" * 201], "201 characters"),
    ],
)
def test_labels_that_cannot_be_used(labels, message):
    with pytest.raises(DataError, match=message):
        parse_labels(labels)


def test_other_braces_of_a_template_are_untouched():
    assert fill_template("{a} {} {0}", ["cat"]) == ("{a} cat {0}",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a photo", r"needs \{\}"),
        ("{} | a photo", r"needs \{\}"),
        ("{}" + "x" * 200, "202 characters"),
        ("|".join(f"{{}} {i}" for i in range(17)), "17 prompt templates"),
    ],
)
def test_templates_that_cannot_be_used(text, message):
    with pytest.raises(DataError, match=message):
        parse_templates(text)


def test_blank_templates_are_the_label_alone():
    assert parse_templates(" | ") == ("{}",)


@pytest.mark.parametrize(
    ("options", "client", "headers", "may"),
    [
        ({}, "127.0.0.1", {}, True),
        ({}, "::1", {}, True),
        ({}, "::ffff:127.0.0.1", {}, True),
        ({}, "192.168.1.7", {}, False),
        ({}, None, {}, False),
        # A proxy may pass on what its visitor wrote: it never grants anything.
        ({}, "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False),
        ({}, "127.0.0.1", {"Forwarded": "for=127.0.0.1"}, False),
        ({}, "192.168.1.7", {"X-Forwarded-For": "127.0.0.1"}, False),
        ({"paths": False}, "127.0.0.1", {}, False),
        ({"trust_visitors": True}, "192.168.1.7", {"X-Forwarded-For": "10.0.0.1"}, True),
    ],
)
def test_who_may_open_what_lies_on_this_machine(models, gallery, options, client, headers, may):
    service = DemoService(ModelRegistry(models), gallery, **options)
    if may:
        service.check_paths(client, headers.items())
    else:
        with pytest.raises(ConfigError, match="--images FOLDER and --student MODEL, or with --tru"):
            service.check_paths(client, headers.items())


def test_downloads_do_not_pile_up(service, monkeypatch):
    monkeypatch.setattr("tinyclip_demo.service.MAX_DOWNLOADS", 3)
    paths = [service.download("a.json") for _ in range(5)]
    for path in paths[-3:]:
        path.write_text("{}")
    assert [path.parent.exists() for path in paths] == [False, False, True, True, True]


def test_models_of_one_name_are_distinguished():
    models = [AngleModel(name, {}, {}) for name in ("student", "student", "teacher")]
    models[1].spec = models[1].spec.__class__(8, 2, 1000, 10, 1000, "onnxruntime", "int8")
    assert ModelRegistry(models).names == ("student fp32", "student int8", "teacher")
    twins = [AngleModel("student", {}, {}) for _ in range(3)]
    names = ("student fp32", "student fp32 (2)", "student fp32 (3)")
    assert ModelRegistry(twins).names == names


def test_labels_that_one_model_takes_for_the_same_are_refused_and_cuts_are_reported(
    service, models
):
    # Words of which the first eight letters count, a token each.
    models[1].context_length = 8
    models[1].token_ids = lambda text: [ord(letter) for letter in text[:8]]
    models[1].fits_context = lambda text: len(text) <= 8
    with pytest.raises(DataError, match="other: labels 'crimson square' and 'crimson sky' are"):
        service.classify(square(RED), "crimson square, crimson sky", "{}", BOTH)
    first, other = service.classify(square(RED), "red, crimson sky", "{}", BOTH)
    assert first.notes == ()
    assert other.notes == (
        "1 of 2 prompts are longer than the model's 8 tokens and are truncated: 'crimson sky'",
    )
    page = bars.classification([first, other])
    assert "other: 1 of 2 prompts are longer" in page and "first: " not in page
