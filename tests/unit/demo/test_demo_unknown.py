"""Pictures that are none of the labels, by the threshold that a bundle was calibrated to."""

import numpy as np
import pytest
from angle_model import BLUE, RED, AngleModel, square

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs.classify import _calibrated_lists
from tinyclip_demo.view import bars
from tinyclip_edge.runtime.confidence import Confidence, Decision

BOTH = (0, 1)
WORDS = {"red": 0, "green": 60, "blue": 180}


def calibrated(threshold, temperature=1.0, labels=("red", "green"), templates=("{}",)):
    return Confidence(labels, templates, Decision(threshold, temperature))


@pytest.fixture
def service():
    """A teacher, and a student that sees blue half-way between red and green."""
    colours = {RED: 0, BLUE: 30}
    models = [AngleModel("teacher", colours, WORDS), AngleModel("student", colours, WORDS)]
    models[1].confidence = calibrated(0.6)
    return DemoService(ModelRegistry(models), Gallery("one", (square(RED),), ("red",)))


def test_below_the_threshold_the_answer_is_none_of_these(service):
    teacher, student = service.classify(square(BLUE), "red, green", "{}", BOTH)
    # 30 degrees from both words: one half each, below 0.6
    assert student.probabilities == pytest.approx((0.5, 0.5), abs=1e-6)
    assert (student.unknown, student.answer) == (True, "none of these")
    assert (teacher.unknown, teacher.answer) == (False, "red")
    assert (teacher.agrees, student.agrees) == (True, False)
    page = bars.classification([teacher, student])
    assert "teacher says <b>red</b>; student says <b>none of these</b>" in page
    assert "student: unknown, because no label reaches 60.0 %" in page
    assert "the nearest is red" in page and "teacher: unknown" not in page
    alone = bars.classification(service.classify(square(BLUE), "red, green", "{}", (1,)))
    assert '<p class="tc-verdict" role="status"><b>none of these</b></p>' in alone


def test_above_it_the_label_stands_at_the_calibrated_temperature(service):
    service.registry.slots[1].embedder.confidence = calibrated(0.6, temperature=5.0)
    teacher, student = service.classify(square(RED), "green, red", "{}", BOTH)
    # cosines 1 and 1/2 times 10: logits 5 apart, at a temperature of 5 one apart
    assert teacher.probabilities[1] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-6)
    assert student.probabilities[1] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)
    assert (student.unknown, student.agrees) == (False, True)
    assert "unknown" not in bars.classification([teacher, student])


@pytest.mark.parametrize(
    ("labels", "template"), [("red, green, blue", "{}"), ("red, green", "a {} thing")]
)
def test_other_labels_or_templates_have_no_threshold(service, labels, template):
    _, student = service.classify(square(BLUE), labels, template, BOTH)
    assert student.threshold is None and student.answer == student.best


def test_models_that_all_say_none_of_these_agree_without_success(service):
    service.registry.slots[0].embedder.confidence = calibrated(0.9)
    results = service.classify(square(BLUE), "red, green", "{}", BOTH)
    verdict = bars.verdict(results)
    assert all(result.agrees for result in results)
    assert "Both models say <b>none of these</b>" in verdict
    assert "tc-verdict strange" in verdict


def test_the_calibrated_labels_are_a_list_to_choose_if_they_can_be_typed(service):
    student = service.registry.slots[1].embedder
    assert list(_calibrated_lists(service)) == ["Labels of student"]
    student.confidence = calibrated(0.6, templates=("a {}", "the {}"))
    assert _calibrated_lists(service)["Labels of student"].templates == ("a {}", "the {}")
    student.confidence = calibrated(0.6, labels=("red, or pink", "green"))
    assert _calibrated_lists(service) == {}
