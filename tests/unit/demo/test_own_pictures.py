"""A visitor's own pictures: where models agree, worked out by hand from angles."""

import re

import numpy as np
import pytest
from angle_model import BLUE, GREEN, RED, AngleModel, last, square

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_demo.texts import parse_label_lines
from tinyclip_demo.uploads import open_text
from tinyclip_demo.view import own_pictures
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.runtime.confidence import Confidence, Decision

LABELS = ("red", "green", "blue")
WORDS = {"red": 0, "green": 60, "blue": 180}
EVIL = "<img src=x onerror=alert(1)>&\"'"


@pytest.fixture
def pictures():
    images = (square(RED), square(RED), square(GREEN), b"junk", square(BLUE))
    return Gallery("five", images, ("r0", "r1", "g", EVIL, "b"))


@pytest.fixture
def service(pictures):
    """The student takes green for red, and blue for green, of which it is not sure."""
    models = [
        AngleModel("teacher", {RED: 0, GREEN: 60, BLUE: 180}, WORDS),
        AngleModel("student", {RED: 5, GREEN: 10, BLUE: 119}, WORDS),
    ]
    return DemoService(ModelRegistry(models), pictures)


def compared(service, gallery, labels=LABELS, numbers=(0, 1)):
    last([None, *service.searcher.indexing(gallery, numbers)])
    return service.comparer.compare(gallery, labels, ("{}",), numbers)


def test_shares_and_confusions_by_hand(service, pictures):
    result = compared(service, pictures)
    teacher, student = result.answers
    assert teacher.first.tolist() == [0, 0, 1, 2]
    # blue is 59 degrees from green and 61 from blue
    assert student.first.tolist() == [0, 0, 0, 1]
    assert (teacher.agreement.top1, teacher.agreement.kl) == (1.0, 0.0)
    assert (student.agreement.pictures, student.agreement.top1) == (4, 0.5)
    assert student.agreement.top5 == 1.0
    assert result.confusion(student).tolist() == [[2, 0, 0], [1, 0, 0], [0, 1, 0]]
    # green: sure of one against sure of another; blue: sure of one against two
    assert [result.rows[place] for place in result.differing] == [2, 4]
    assert result.broken == (EVIL,)


def test_pictures_far_from_all_labels_are_those_of_the_first_model(service):
    colours = {(value, 0, 0): value / 10 for value in range(12)} | {(200, 0, 0): 240}
    for slot in service.registry.slots:
        slot.embedder.colours = colours
    gallery = Gallery("many", tuple(square(colour) for colour in colours), ("p",) * 13)
    # 240 degrees are 60 from blue, all others less than 2 from red
    assert compared(service, gallery).far == (12,)


def test_unknown_is_what_a_threshold_for_these_labels_says(service, pictures):
    student = service.registry.slots[1].embedder
    student.confidence = Confidence(("blue", "green", "red"), ("{}",), Decision(0.6))
    teacher_answers, answers = compared(service, pictures).answers
    assert teacher_answers.unknown is None
    assert answers.unknown.tolist() == [False, False, False, True]
    away = np.cos(np.deg2rad(59)) - np.cos(np.deg2rad(61))
    assert answers.probability[3] == pytest.approx(1 / (1 + np.exp(-10 * away)), abs=1e-4)
    other = compared(service, pictures, ("red", "green")).answers[1]
    assert other.unknown is None


def test_the_page_shows_all_of_it_and_escapes_names(service, pictures):
    student = service.registry.slots[1].embedder
    student.confidence = Confidence(LABELS, ("{}",), Decision(0.6))
    page = own_pictures.comparison(compared(service, pictures), pictures)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Both models give the same label to 2 of 4 pictures ( 50.0% )" in text
    assert "1 picture cannot be decoded: &lt;img" in page and "<img src=x" not in page
    assert "Pictures on which they differ: 2" in text
    assert "Unknown, according to student : 1" in text
    assert page.count('aria-label="another"') == 2
    assert re.findall(r'class="(same|apart)"[^>]*>(\d)<', page) == [
        ("same", "2"), ("apart", "1"), ("apart", "1"),
    ]  # fmt: skip


def test_models_that_agree_have_no_list_of_differences(service, pictures):
    service.registry.slots[1].embedder.colours = service.registry.slots[0].embedder.colours
    page = own_pictures.comparison(compared(service, pictures), pictures)
    assert "(<b>100.0%</b>)" in page and "tc-pairs" not in page


def test_many_labels_are_folded_into_the_confused_ones_and_others():
    counts = np.diag([5, 4, 3, 2, 1])
    counts[4, 1] = 2
    assert own_pictures.confused_labels(counts, most=3) == [0, 1, 4]
    table = own_pictures.folded(counts, [0, 1, 4])
    assert table.tolist() == [[5, 0, 0, 0], [0, 4, 0, 0], [0, 2, 1, 0], [0, 0, 0, 5]]
    # all labels with pictures fit: no row of others, none for a label that nobody uses
    counts[0, 0] = 0
    assert own_pictures.confused_labels(counts, most=3) == [1, 2, 3, 4]
    assert own_pictures.folded(counts, [1, 2, 3, 4]).shape == (4, 4)


def test_what_cannot_be_compared_is_one_line(service, pictures):
    with pytest.raises(ConfigError, match="tick at least two"):
        compared(service, pictures, numbers=(0,))
    with pytest.raises(DataError, match="none of 1 pictures can be decoded"):
        compared(service, Gallery("broken", (b"junk",), ("junk",)))
    with pytest.raises(DataError, match="no pictures yet: drop a folder"):
        service.galleries.own(None)
    with pytest.raises(DataError, match="no longer available"):
        service.galleries.own("gone")


def test_the_folder_that_the_page_was_given_is_the_visitor_s_own(tmp_path):
    from tinyclip_demo.gallery import folder_gallery

    square(RED).save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    gallery = folder_gallery(tmp_path)
    service = DemoService(ModelRegistry([AngleModel("m", {}, {})]), gallery)
    assert service.galleries.own(None) is gallery
    assert (gallery.folder, gallery.skipped) == (tmp_path, ("broken.png",))


def test_labels_are_lines_and_may_have_commas():
    assert parse_label_lines(" red,  or pink\n\ngreen\ngreen\n") == ("red, or pink", "green")
    for text, message in (("\n", "no labels.*one per line"), ("cat, dog", "only one.*per line")):
        with pytest.raises(DataError, match=message):
            parse_label_lines(text)


def test_a_file_of_labels_is_read_within_bounds_and_without_its_path(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes("\ufeffred\ngrün\n".encode())
    assert open_text(str(path)) == "red\ngrün\n"
    for content, message in (
        (b"", "0 bytes"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * 200_001, "has 200 kB: at most 200 kB are read"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            open_text(str(path))
        assert "secret" not in str(caught.value)
