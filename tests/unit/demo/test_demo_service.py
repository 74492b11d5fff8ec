"""The demo's numbers, by hand: two-dimensional features, angles one can add up."""

import threading

import numpy as np
import pytest
from PIL import Image

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.service import DemoService, fill_template, parse_labels
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.runtime.protocol import EmbedderSpec

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def unit(degrees):
    radians = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1).astype(np.float32)


class AngleModel:
    """Colours and words as angles in the plane: similarity is the cosine of their difference."""

    def __init__(self, name, colours, words, scale=10.0):
        self.name = name
        self.spec = EmbedderSpec(8, 2, 1000, 10, 4000, "torch", "fp32")
        self.logit_scale = scale
        self.colours, self.words = colours, words
        self.image_calls, self.text_calls = [], []

    def encode_image(self, images):
        self.image_calls.append(len(images))
        return unit([self.colours.get(image.getpixel((0, 0)), 90) for image in images])

    def encode_text(self, texts):
        self.text_calls.append(tuple(texts))
        return unit([self.words.get(text, 90) for text in texts])


def square(colour):
    return Image.new("RGB", (8, 8), colour)


@pytest.fixture
def gallery():
    return Gallery("three", (square(RED), square(GREEN), square(BLUE)), ("red", "green", "blue"))


@pytest.fixture
def models():
    words = {"red": 0, "green": 60, "blue": 180, "a red thing": 60}
    first = AngleModel("first", {RED: 0, GREEN: 30, BLUE: 100}, words)
    other = AngleModel("other", {RED: 50, GREEN: 10, BLUE: 100}, words)
    return [first, other]


def test_probabilities_are_the_softmax_of_scaled_cosines(models, gallery):
    first, other = DemoService(models, gallery).classify(square(RED), ["red", "green", "blue"])
    # first: cosines 1, 1/2, -1 times 10 -> e^0, e^-5, e^-20 over their sum
    total = 1 + np.exp(-5) + np.exp(-20)
    expected = [1 / total, np.exp(-5) / total, np.exp(-20) / total]
    assert first.probabilities == pytest.approx(expected, abs=1e-6)
    assert (first.best, first.agrees) == ("red", True)
    # other: red lies at 50 degrees, 10 from green and 50 from red
    assert (other.best, other.agrees) == ("green", False)
    assert sum(other.probabilities) == pytest.approx(1, abs=1e-6)


def test_the_template_reaches_the_model_and_labels_stay_as_written(models, gallery):
    first, _ = DemoService(models, gallery).classify(square(RED), "red, green", "a {} thing")
    assert models[0].text_calls == [("a red thing", "a green thing")]
    assert first.labels == ("red", "green")
    # "a red thing" is at 60, "a green thing" at 90: cosines 1/2 and 0 times 10
    assert first.probabilities[0] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-6)


def test_labels_are_encoded_once_per_list(models, gallery):
    service = DemoService(models, gallery)
    first_time = service.classify(square(RED), "red, green")
    again = service.classify(square(BLUE), "red, green")
    assert models[0].text_calls == [("red", "green")]
    assert first_time[0].text_ms is not None
    assert again[0].text_ms is None
    service.classify(square(RED), "red, blue")
    assert models[0].text_calls[-1] == ("red", "blue")


def test_preprocessing_is_told_apart_where_the_model_shows_it(models, gallery):
    class Fit:
        def pixels(self, image):
            return np.asarray(image)

    models[1].preprocess = Fit()
    models[1].encode_image = lambda images: unit([0] * len(images))
    first, other = DemoService(models, gallery).classify(square(RED), "red, green")
    assert first.preprocess_ms is None
    assert other.preprocess_ms >= 0
    assert other.image_ms >= 0


def test_search_ranks_by_cosine_and_counts_what_is_shared(models, gallery):
    first, other = DemoService(models, gallery).search("red", k=2)
    # first has red 0, green 30, blue 100 degrees away; other has green 10, red 50, blue 100
    assert [(hit.index, hit.rank) for hit in first.hits] == [(0, 1), (1, 2)]
    assert [hit.score for hit in first.hits] == pytest.approx([1, np.cos(np.pi / 6)], abs=1e-6)
    assert [(hit.index, hit.reference_rank) for hit in other.hits] == [(1, 2), (0, 1)]
    assert (first.overlap, other.overlap) == (1, 1)


def test_overlap_counts_only_the_pictures_shown(models, gallery):
    _, other = DemoService(models, gallery).search("red", k=1)
    assert (other.hits[0].index, other.hits[0].reference_rank, other.overlap) == (1, 2, 0)


def test_more_pictures_than_the_gallery_has_are_all_of_them(models, gallery):
    first, _ = DemoService(models, gallery).search("red", k=50)
    assert [hit.index for hit in first.hits] == [0, 1, 2]


def test_the_gallery_is_encoded_once_per_model(models, gallery):
    service = DemoService(models, gallery)
    steps = list(service.indexing())
    assert [(step.number, step.done, step.total) for step in steps] == [(0, 3, 3), (1, 3, 3)]
    service.search("red")
    service.search("blue")
    assert list(service.indexing()) == []
    assert [model.image_calls for model in models] == [[3], [3]]


def test_two_callers_share_the_encoding(models):
    gallery = Gallery("many", (square(RED),) * 200, ("red",) * 200)
    service = DemoService(models, gallery)
    callers = [threading.Thread(target=service.search, args=("red",)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [sum(model.image_calls) for model in models] == [200, 200]


def test_pictures_that_do_not_decode_are_left_out(models):
    gallery = Gallery("broken", (square(RED), b"junk", square(GREEN)), ("red", "junk", "green"))
    service = DemoService(models, gallery)
    first, _ = service.search("red", k=3)
    assert [hit.index for hit in first.hits] == [0, 2]
    assert service.unreadable == 1


def test_a_gallery_without_any_picture_that_decodes(models):
    service = DemoService(models, Gallery("broken", (b"junk",), ("junk",)))
    with pytest.raises(DataError, match="no picture that decodes"):
        service.search("red")


def test_models_of_one_name_are_told_apart(gallery):
    models = [AngleModel(name, {}, {}) for name in ("student", "student", "teacher")]
    models[1].spec = EmbedderSpec(8, 2, 1000, 10, 1000, "onnxruntime", "int8")
    assert DemoService(models, gallery).names == ("student fp32", "student int8", "teacher")
    twins = [AngleModel("student", {}, {}) for _ in range(3)]
    names = ("student fp32", "student fp32 (2)", "student fp32 (3)")
    assert DemoService(twins, gallery).names == names


def test_no_model_is_an_error_that_names_the_options(gallery):
    with pytest.raises(ConfigError, match="--student"):
        DemoService([], gallery)


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


def test_other_braces_of_a_template_are_left_alone():
    assert fill_template("{a} {} {0}", ["cat"]) == ("{a} cat {0}",)


def test_bad_requests_are_told_in_one_line(models, gallery):
    service = DemoService(models, gallery)
    requests = {
        "no image yet": lambda: service.classify(None, "red, green"),
        r"needs \{\}": lambda: service.classify(square(RED), "red, green", "a photo"),
        "does not decode|no image that": lambda: service.classify(b"junk", "red, green"),
        "query is blank": lambda: service.search("  \n "),
        "at most 200": lambda: service.search("x" * 201),
    }
    for message, request in requests.items():
        with pytest.raises(DataError, match=message) as caught:
            request()
        assert "\n" not in str(caught.value)
