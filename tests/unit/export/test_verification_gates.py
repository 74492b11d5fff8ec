"""Each gate of the verification, with towers that do not pass it."""

from types import SimpleNamespace

import numpy as np
import pytest

from tinyclip_edge.errors import VerificationError
from tinyclip_export.layout import IMAGE_IO, TEXT_IO
from tinyclip_export.verification.embeddings import TimedEmbeddings
from tinyclip_export.verification.failures import (
    AxesError,
    GatesFailedError,
    NamesError,
    RankingError,
    ShapesError,
    ValuesError,
)
from tinyclip_export.verification.gates import (
    ExpectedSizes,
    VerificationReport,
    check_embeddings,
    check_structure,
)

EXPECTED = ExpectedSizes(image_size=8, embedding_dim=4, context_length=6)


class FakeSession:
    """An onnxruntime session with chosen names, axes and outputs."""

    def __init__(self, io, *, shape=None, name=None, answer=None):
        free = [io.dynamic_axes.get(0), *([3, 8, 8] if io is IMAGE_IO else ["sequence"])]
        self._input = SimpleNamespace(name=name or io.input_name, shape=shape or free)
        self._output = SimpleNamespace(name=io.output_name, shape=["batch", 4])
        self._answer = answer or (lambda batch: np.eye(4, dtype=np.float32)[[0] * len(batch)])

    def get_inputs(self):
        return [self._input]

    def get_outputs(self):
        return [self._output]

    def run(self, _names, feed):
        return [self._answer(next(iter(feed.values())))]


class FakeFiles:
    precision = "int8"

    def __init__(self, image=None, text=None):
        self._towers = {
            "image": image or FakeSession(IMAGE_IO),
            "text": text or FakeSession(TEXT_IO),
        }

    def open(self, tower):
        if isinstance(self._towers[tower], Exception):
            raise self._towers[tower]
        return self._towers[tower]


def checked(**towers):
    report = VerificationReport()
    check_structure(report, FakeFiles(**towers), EXPECTED)
    return report


def test_good_towers_pass_every_gate():
    report = checked()
    assert report.failures == []
    assert all(report.figures["int8"]["checks"].values())
    assert len(report.figures["int8"]["checks"]) == 6
    report.raise_failures()


def frozen_answer(batch):
    if len(batch) != 1:
        raise RuntimeError("Got invalid dimensions\nmore")
    return np.eye(4, dtype=np.float32)[:1]


@pytest.mark.parametrize(
    ("tower", "kind", "words"),
    [
        (FakeSession(IMAGE_IO, name="input"), NamesError, "pixel_values"),
        (VerificationError("x.onnx does not load: bad"), NamesError, "does not load"),
        (FakeSession(IMAGE_IO, shape=[1, 3, 8, 8]), AxesError, "batch"),
        (FakeSession(IMAGE_IO, shape=["batch", 3, "height", 8]), AxesError, "height"),
        (FakeSession(IMAGE_IO, answer=frozen_answer), ShapesError, "invalid dimensions$"),
        (FakeSession(IMAGE_IO, answer=lambda b: np.ones((len(b), 5))), ShapesError, r"\(1, 5\)"),
        (FakeSession(IMAGE_IO, answer=lambda b: np.ones((len(b), 4))), ShapesError, "norms"),
        (FakeSession(IMAGE_IO, answer=lambda b: np.full((len(b), 4), np.nan)), ShapesError, "nan"),
    ],
)
def test_each_gate_names_its_failure(tower, kind, words):
    (failure,) = checked(image=tower).failures
    assert type(failure) is kind
    assert str(failure).startswith("int8 image ")
    with pytest.raises(kind, match=words):
        raise failure


def test_all_failures_are_one_line_with_exit_code_3():
    report = checked(
        image=FakeSession(IMAGE_IO, shape=[1, 3, 8, 8], answer=frozen_answer),
        text=FakeSession(TEXT_IO, name="ids"),
    )
    with pytest.raises(GatesFailedError) as caught:
        report.raise_failures()
    assert caught.value.exit_code == 3
    assert [type(f) for f in caught.value.failures] == [AxesError, ShapesError, NamesError]
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("image axes", "image shapes", "text names"))


def test_text_lengths_are_tried_up_to_the_context():
    lengths = []

    def note(batch):
        lengths.append(batch.shape)
        return np.eye(4, dtype=np.float32)[[0] * len(batch)]

    checked(text=FakeSession(TEXT_IO, answer=note))
    assert lengths == [(b, length) for b in (1, 2, 5) for length in (2, 5, 6)]


def embeddings(image, text):
    return TimedEmbeddings(image, text, {"image": 1.0, "text": 1.0})


def points(count, error=0.0):
    """Unit vectors of a plane, evenly spread, each turned by the same small angle."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False) + error
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def judged(precision, result, *, count=200, max_drop=0.5):
    report = VerificationReport()
    reference = embeddings(points(count), points(count))
    check_embeddings(report, precision, reference, result, max_drop=max_drop)
    return report


def test_values_gate_of_fp32_is_four_nines():
    # cos(0.02) = 0.9998; both towers turned alike, so the ranking stays
    report = judged("fp32", embeddings(points(200, 0.02), points(200, 0.02)))
    assert [type(f) for f in report.failures] == [ValuesError, ValuesError]
    assert report.figures["fp32"]["image"]["cosine_min"] == pytest.approx(0.9998, abs=1e-5)
    assert judged("int8", embeddings(points(200, 0.02), points(200, 0.02))).failures == []


def test_int8_of_other_embeddings_fails_on_values():
    report = judged("int8", embeddings(points(200, 1.0), points(200, 1.0)))
    assert [type(f) for f in report.failures] == [ValuesError, ValuesError]


def test_int8_may_lose_max_drop_beyond_the_error_of_the_set():
    text = points(200)
    text[:6] = text[[1, 0, 3, 2, 5, 4]]  # 3 % of the hits go; error of the set 1.2 points
    swapped_hits = embeddings(points(200), text)
    report = judged("int8", swapped_hits)
    (failure,) = report.failures
    assert type(failure) is RankingError
    assert "3.00 ± 1.21 points, 0.5 and a standard error allowed" in str(failure)
    assert report.figures["int8"]["ranking"]["recall@1"] == 97.0
    assert judged("int8", swapped_hits, max_drop=2.0).failures == []


def test_fp32_may_change_no_hit():
    text = points(200)
    text[:2] = text[[1, 0]]
    report = judged("fp32", embeddings(points(200), text))
    assert [type(f) for f in report.failures] == [ValuesError, RankingError]
    assert str(report.failures[1]) == "fp32 ranking: 2 of 200 hits changed"


def swapped(count, pairs):
    """Points of which the first `pairs` times two sit on each other's places: so many are lost."""
    changed = points(count)
    order = np.arange(count)
    order[: 2 * pairs] = order[: 2 * pairs].reshape(-1, 2)[:, ::-1].ravel()
    return embeddings(changed, changed[order])


def test_a_gate_narrower_than_one_pair_says_that_it_cannot_tell():
    # One of 150 pairs is 0.67 points, more than the 0.5 allowed: nothing lost proves nothing.
    report = judged("int8", embeddings(points(150), points(150)), count=150)
    assert report.failures == []
    assert report.figures["int8"]["checks"]["ranking"] is None
    (warning,) = report.warnings
    assert str(warning) == (
        "int8 ranking: too few pairs to tell: one of 150 is 0.7 points, 0.5 allowed; "
        "verify on 200 or more"
    )


@pytest.mark.parametrize(
    ("precision", "gate"), [("int8", 0.995), ("uint8", 0.995), ("static", 0.98)]
)
@pytest.mark.parametrize(
    ("convolutional", "cosine"),
    # What 8 bits left of MobileCLIP2-S0: 0.963, 0.991 with float depthwise convolutions, and 0.997
    # with products in place of pointwise ones.
    [(True, 0.963), (True, 0.991), (True, 0.997), (False, 0.963), (False, 0.89)],
)
def test_a_damaged_tower_of_convolutions_is_refused(precision, gate, convolutional, cosine):
    report, angle = VerificationReport(), float(np.arccos(cosine))
    reference, turned = embeddings(points(200), points(200)), points(200, angle)
    reference.convolutional = convolutional
    check_embeddings(report, precision, reference, embeddings(turned, turned), max_drop=0.5)
    checks = report.figures[precision]["checks"]
    assert checks["ranking"] is True  # both towers are turned alike
    passed = cosine > (gate if convolutional else 0.9)
    assert checks["image values"] is passed
    assert checks["text values"] is (cosine > 0.9)
    if convolutional and not passed:
        message = f"{precision} image values: cosine {cosine:.5f} is below {gate}"
        assert message in str(report.failures[0])


def test_enough_pairs_are_judged_and_fp32_needs_none():
    exact = embeddings(points(200), points(200))
    for precision, count in (("int8", 200), ("fp32", 10)):
        report = judged(precision, embeddings(points(count), points(count)), count=count)
        assert report.warnings == []
        assert report.figures[precision]["checks"]["ranking"] is True
    assert judged("int8", exact, max_drop=0.0).warnings == []  # zero says it of any number


def test_few_pairs_still_refuse_what_is_clearly_worse():
    report = VerificationReport()
    reference, judged = embeddings(points(100), points(100)), swapped(100, 30)
    check_embeddings(report, "int8", reference, judged, max_drop=0.5)
    assert report.figures["int8"]["checks"]["ranking"] is False
    assert "60.00 ± 4.92 points, 0.5 and a standard error allowed" in " ".join(
        str(failure) for failure in report.failures
    )
