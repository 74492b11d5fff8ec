"""Requests that cannot be fulfilled, and folders that cannot be worked in."""

from __future__ import annotations

import errno

import pytest
from PIL import Image

import tinyclip_edge
from tinyclip_edge.errors import BundleError, ConfigError, DataError, ModelError
from tinyclip_edge.tailoring import pictures
from tinyclip_edge.tailoring.work import REQUEST, VERSION, WorkFolder


@pytest.fixture
def given(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(36):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    return {
        "images": tmp_path / "pictures",
        "labels": tmp_path / "labels.txt",
        "out": tmp_path / "bundle",
        "work": tmp_path / "work",
    }


def write(content):
    return lambda given: given["labels"].write_text(content)


def fewer(given):
    (given["images"] / "0.png").unlink()


def occupied(given):
    given["out"].mkdir()
    (given["out"] / "mine.txt").write_text("")


def foreign(given):
    given["work"].mkdir()
    (given["work"] / "mine.txt").write_text("")


MISTAKES = [
    (fewer, {}, DataError, "has 35 pictures; at least 36 are needed"),
    (write("cat\n"), {}, DataError, "has one label, 'cat'"),
    (write("cat\ndog\ncat\n"), {}, DataError, "label 'cat' appears more than once"),
    (write("\n"), {}, DataError, "is empty"),
    (None, {"labels": "nowhere.txt"}, DataError, "no file nowhere.txt"),
    (None, {"texts": "nowhere.txt"}, DataError, "no file nowhere.txt"),
    (None, {"images": "nowhere"}, DataError, "no folder nowhere"),
    (None, {"templates": ["a photo"]}, DataError, "has no {}"),
    (None, {"teacher": "starter-techer"}, ModelError, "did you mean 'starter-teacher'?"),
    (None, {"general": "nowhere"}, ModelError, "no model or folder 'nowhere'"),
    (None, {"max_mb": 0}, ConfigError, "max_mb is 0; it must be above 0"),
    (None, {"minutes": float("nan")}, ConfigError, "minutes is nan"),
    (None, {"form": "tower"}, ConfigError, "form 'tower' is neither classifier nor towers"),
    (None, {"resume": True}, ConfigError, "leave out --resume"),
    (occupied, {}, BundleError, "has other files in it"),
    (foreign, {}, ConfigError, r"other files in it \(mine\.txt\)"),
]


@pytest.mark.parametrize(("spoil", "changes", "kind", "message"), MISTAKES)
def test_mistakes_are_one_line_before_anything_is_done(given, spoil, changes, kind, message):
    if spoil is not None:
        spoil(given)
    before = sorted(given["images"].parent.rglob("*"))
    with pytest.raises(kind, match=message) as error:
        tinyclip_edge.tailor(**{**given, **changes})
    assert "\n" not in str(error.value)
    assert sorted(given["images"].parent.rglob("*")) == before


def test_labels_that_the_teacher_cannot_tell_apart(given, toy_teacher_folder):
    long = "red " * 20
    given["labels"].write_text(f"{long}cat\n{long}dog\n")
    with pytest.raises(DataError, match="the same after truncation to the model's 16 tokens"):
        tinyclip_edge.tailor(**given, teacher=str(toy_teacher_folder))
    assert not given["work"].exists() and not given["out"].exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(given, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "work/pictures.json")

    monkeypatch.setattr(pictures, "list_pictures", full)
    line = r"work/pictures\.json: No space left on device; fix this, then repeat"
    with pytest.raises(DataError, match=line):
        tinyclip_edge.tailor(**given)
    assert not given["work"].exists() and not given["out"].exists()


def test_work_goes_on_with_the_request_it_was_begun_with(tmp_path):
    work, request = WorkFolder(tmp_path / "work"), {"max_mb": 8.0, "minutes": 20.0}
    with work.held(request, resume=False):
        work.write("pictures", {})  # killed before the request was written: it begins again
    with work.held(request, resume=False):
        work.write(REQUEST, {"version": VERSION, **request})
    with pytest.raises(ConfigError, match="add --resume to go on with it"):
        work.check(request, resume=False)
    work.check({**request, "minutes": 40.0}, resume=True)
    with pytest.raises(ConfigError, match="was begun with another max_mb"):
        work.check({**request, "max_mb": 4.0}, resume=True)


@pytest.mark.parametrize("content", [{}, {"folder": 1, "pictures": [3], "unreadable": []}])
def test_a_record_that_was_not_written_here_is_refused(tmp_path, content):
    work = WorkFolder(tmp_path)
    work.write("pictures", content)
    with pytest.raises(DataError, match=r"pictures\.json is damaged .*; choose another --work"):
        work.parsed("pictures", pictures.PictureList.from_dict)
    assert work.parsed("candidates", dict) is None
