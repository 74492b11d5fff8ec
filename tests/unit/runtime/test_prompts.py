"""Labels that a model cannot tell apart are refused, what its context cuts is said."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, softmax

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.prompts import (
    check_prompts,
    fill_templates,
    probabilities,
    prompt_chars,
)

RED = Image.new("RGB", (12, 9), "red")


@pytest.fixture(scope="module")
def clip(shared_tiny_bundle):
    return EdgeCLIP.load(shared_tiny_bundle.folder)


def long(end, clip):
    """A label whose last word lies behind the context."""
    return " ".join(["cat"] * clip.context_length + [end])


def test_labels_that_differ_behind_the_context_are_refused(clip):
    labels = [long(end, clip) for end in ("a", "red", "cat")]
    with pytest.raises(
        DataError, match=rf"same after truncation to the model's {clip.context_length} tok"
    ):
        clip.classify(RED, labels)


def test_a_template_that_pushes_labels_behind_the_context_is_refused(clip):
    with pytest.raises(DataError, match="labels 'cat' and 'red' are the same after truncation"):
        clip.classify(RED, ["cat", "red"], [long("{}", clip)])
    # One template that tells them apart is enough.
    with pytest.warns(UserWarning, match="2 of 4 prompts are longer"):
        clip.classify(RED, ["cat", "red"], ["{}", long("{}", clip)])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "red", "Cat"], "labels 'cat' and 'Cat' become the same tokens"),
        (["cat", "red", " cat "], "labels 'cat' and ' cat ' become the same tokens"),
        (["cat", "red", "cat"], "label 'cat' appears more than once"),
    ],
)
def test_labels_of_the_same_tokens_are_refused(clip, labels, message):
    with pytest.raises(DataError, match=message):
        clip.classify(RED, labels)


def test_a_cut_label_is_reported_once_and_answered(clip):
    labels = ["red", long("red", clip)]
    with pytest.warns(UserWarning, match="1 of 2 prompts are longer than the model's") as warned:
        answer = clip.classify(RED, labels)
    assert len(warned) == 1 and {label for label, _ in answer} == set(labels)
    assert sum(chance for _, chance in answer) == pytest.approx(1)


def test_a_label_that_just_fits_is_not_reported_as_cut(clip):
    room = clip.context_length - 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_prompts(clip, ["red", " ".join(["cat"] * room)]) == ()
    assert clip.fits_context(" ".join(["cat"] * room))
    assert not clip.fits_context(" ".join(["cat"] * (room + 1)))


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["cat", "red", "a"]),
        np.array(["cat", "red", "a"], dtype=object),
        {"cat", "red", "a"},
        frozenset({"cat", "red", "a"}),
        ("cat", "red", "a"),
        dict.fromkeys(["cat", "red", "a"]).keys(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_labels_of_any_collection_give_the_answer_of_a_list(clip, labels):
    expected = clip.classify(RED, ["cat", "red", "a"])
    result = clip.classify(RED, labels)
    assert [type(label) for label, _ in result] == [str] * 3
    assert dict(result) == pytest.approx(dict(expected), abs=1e-6)


def test_a_generator_of_labels_is_read_once(clip):
    expected = clip.classify(RED, ["cat", "red"], ["{}", "a {}"])
    names, templates = (x for x in ("cat", "red")), (x for x in ("{}", "a {}"))
    assert clip.classify(RED, names, templates) == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"cat": 0, "red": 1}, "not a dict"),
        ([b"cat", "red"], "must be str, not bytes"),
        (np.array([1, 2]), "must be str, not int64"),
        (3, "takes a list of texts, not int"),
        (np.array("cat"), "list of texts"),
        (np.array([["cat"], ["red"]]), "must be str, not ndarray"),
    ],
)
def test_labels_that_are_no_texts_are_refused(clip, labels, message):
    with pytest.raises(DataError, match=message):
        clip.classify(RED, labels)


def test_texts_and_images_of_any_ordered_collection(clip):
    texts = ["cat", "a red cat"]
    expected = clip.encode_text(texts)
    for collection in (np.array(texts), (x for x in texts), tuple(texts)):
        assert np.array_equal(clip.encode_text(collection), expected)
    pictures = np.stack([np.full((9, 12, 3), value, np.uint8) for value in (0, 90, 250)])
    expected = clip.encode_image(list(pictures))
    assert np.array_equal(clip.encode_image(pictures), expected)
    assert np.array_equal(clip.encode_image(x for x in pictures), expected)
    assert np.array_equal(clip.index(x for x in pictures).features, expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((9, 12, 3), np.uint8), r"not an array of shape \[9, 12, 3\]"),
        (RED, "takes a list of images, not Image"),
        ({"a": RED}, "not a dict"),
        ({"a.png", "b.png"}, "not a set"),
        (None, "not NoneType"),
    ],
)
def test_a_single_picture_is_no_batch_of_its_rows(clip, images, message):
    with pytest.raises(DataError, match=message):
        clip.encode_image(images)


def test_the_size_of_prompts_is_known_before_they_are_made():
    labels, templates = ["cat", "a dog"], ["{}", "a {} or {}", "{{}}"]
    expected = sum(len(prompt) for prompt in fill_templates(labels, templates))
    assert prompt_chars(labels, templates) == expected
    with pytest.raises(DataError, match="make prompts of 400,000,000 characters"):
        fill_templates(["x" * 20_000], ["{}" * 20_000])


def test_probabilities_are_of_one_picture_or_of_many():
    logits = np.random.default_rng(0).normal(0, 20, (5, 7))
    for values in (logits, logits[0]):
        assert probabilities(values, None) == pytest.approx(softmax(values, axis=-1))
        assert probabilities(values, -3.0) == pytest.approx(expit(values - 3))
