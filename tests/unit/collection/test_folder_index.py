"""``index_folders``: what is new, changed, moved, deleted, broken or out of reach."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from colour_model import check_rows, counts, names, paint
from PIL import Image

from tinyclip_edge import index_folders
from tinyclip_edge.aside import locked_file
from tinyclip_edge.collection.journal import IndexedFile, Journal
from tinyclip_edge.errors import BundleError, DataError, TinyClipError
from tinyclip_edge.runtime.index import ImageIndex


def test_only_what_differs_is_embedded(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    assert counts(index_folders(model, [photos], path)) == {"new": 10}
    assert len(check_rows(path)) == 10 and model.embedded == 10
    content = path.read_bytes()
    assert counts(index_folders(model, [photos], path)) == {"unchanged": 10}
    assert path.read_bytes() == content and model.embedded == 10

    paint(photos / "2020" / "new.png", 1, 2, 3)
    paint(photos / "2019" / "0.png", 3, 2, 1)  # changed
    (photos / "2019" / "1.png").rename(photos / "moved.png")
    shutil.copy(photos / "2019" / "2.png", photos / "copy.png")
    (photos / "2019" / "3.png").unlink()
    os.utime(photos / "2020" / "4.png", (7, 7))  # the same bytes
    report = index_folders(model, [photos], path)
    assert counts(report) == {"unchanged": 7, "new": 2, "changed": 1, "moved": 1, "deleted": 1}
    assert model.embedded == 12 and report.pictures == 11
    index = check_rows(path)
    assert {os.path.relpath(key, photos) for key in index} == {
        "2019/0.png", "2019/2.png", "2020/new.png", "copy.png", "moved.png",
        *(f"2020/{number}.png" for number in range(4, 10)),
    }  # fmt: skip
    assert names(tmp_path) == [".x.npz.lock", "photos", "x.npz"]


def test_one_folder_needs_no_list(model, photos, tmp_path):
    for folder in (photos, str(photos)):
        index_folders(model, folder, tmp_path / "x.npz")
        assert len(check_rows(tmp_path / "x.npz")) == 10


def test_names_that_are_exchanged(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path)
    one, two, three = (photos / "2019" / f"{number}.png" for number in range(3))
    one.rename(tmp_path / "aside")
    two.rename(one)
    three.rename(two)
    (tmp_path / "aside").rename(three)
    paint(photos / "2019" / "3.png", 250, 1, 1)  # replaced, its old content has moved
    shutil.copy(photos / "2019" / "0.png", photos / "2019" / "z.png")
    index_folders(model, [photos], path)
    check_rows(path)


def test_folders_are_independent(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    index_folders(model, [photos / "2019"], path)
    report = index_folders(model, [photos / "2020"], path)
    assert counts(report) == {"new": 6} and report.pictures == 10
    (photos / "2019" / "0.png").unlink()
    (photos / "2020" / "4.png").unlink()
    assert counts(index_folders(model, [photos / "2020"], path)) == {"unchanged": 5, "deleted": 1}
    assert str(photos / "2019" / "0.png") in ImageIndex.load(path)
    (tmp_path / "photos2").mkdir()
    paint(tmp_path / "photos2" / "a.png", 9, 9, 9)
    index_folders(model, [tmp_path / "photos2"], path)
    report = index_folders(model, [photos], path)  # "photos2" begins with "photos"
    assert counts(report) == {"unchanged": 8, "deleted": 1} and report.pictures == 9


def test_a_folder_by_two_names_is_one(model, photos, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    index_folders(model, ["link"], path)
    assert counts(index_folders(model, [photos, "photos/../link"], path)) == {"unchanged": 10}
    assert len(check_rows(path)) == 10


def test_broken_pictures_are_listed_and_tried_again(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    broken, was_good = photos / "broken.jpg", photos / "2019" / "0.png"
    broken.write_bytes(b"junk")
    (photos / "gone.jpg").symlink_to("nowhere")
    report = index_folders(model, [photos], path)
    assert counts(report) == {"new": 10}
    assert {entry.key for entry in report.skipped} == {str(broken), str(photos / "gone.jpg")}
    assert ImageIndex.load(path).errors == tuple(sorted(report.skipped))
    was_good.write_bytes(was_good.read_bytes()[:40])
    paint(broken.with_suffix(".png"), 1, 2, 3)
    broken.with_suffix(".png").rename(broken)  # PNG by its content
    (photos / "gone.jpg").unlink()
    report = index_folders(model, [photos], path)
    assert counts(report) == {"unchanged": 9, "new": 1}
    assert [entry.key for entry in ImageIndex.load(path).errors] == [str(was_good)]
    assert str(was_good) not in check_rows(path)


def test_an_unreadable_subfolder_loses_nothing(model, photos, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path)
    scan = os.scandir

    def refuse(folder):
        if str(folder).rstrip("/").endswith("2019"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    (photos / "2020" / "4.png").unlink()
    report = index_folders(model, [photos], path)
    assert counts(report) == {"unchanged": 5, "deleted": 1} and report.pictures == 9
    assert "cannot read folder" in report.skipped[0].reason
    with pytest.raises(DataError, match=r"cannot read folder .*2019: Permission denied"):
        index_folders(model, [photos / "2019"], path)


def test_folders_without_pictures_change_nothing(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path)
    content = path.read_bytes()
    shutil.rmtree(photos)
    with pytest.raises(DataError, match=r"no folder .*photos: it does not exist"):
        index_folders(model, [photos], path)
    photos.mkdir()  # such as a disk that is not mounted
    (photos / "readme.txt").touch()
    with pytest.raises(DataError, match=r"no picture in .*photos .*but 1 \.txt"):
        index_folders(model, [photos], path)
    with pytest.raises(DataError, match=r"no folder .*readme.txt: it is not a folder"):
        index_folders(model, [photos / "readme.txt"], path)
    with pytest.raises(DataError, match=r"cannot write .*there is no folder"):
        index_folders(model, [photos], tmp_path / "none" / "x.npz")
    assert path.read_bytes() == content
    assert names(tmp_path) == [".x.npz.lock", "photos", "x.npz"]


def test_names_that_are_not_utf8(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    paint(photos / "a.png", 1, 2, 3)
    name = os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")
    (photos / "a.png").rename(name)
    index_folders(model, [photos], path)
    assert name in check_rows(path)
    assert counts(index_folders(model, [photos], path)) == {"unchanged": 11}


def test_a_picture_that_changes_meanwhile_is_changed_next_time(model, photos, tmp_path):
    path = tmp_path / "x.npz"

    def meddle(done, _):
        if done == 10:  # all are read
            paint(photos / "2019" / "0.png", 250, 250, 1)
            os.utime(photos / "2019" / "0.png", (7, 7))

    index_folders(model, [photos], path, progress=meddle)
    assert counts(index_folders(model, [photos], path)) == {"unchanged": 9, "changed": 1}
    check_rows(path)


def test_another_models_index_is_left_alone(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path)
    content = path.read_bytes()
    model.model_hash = "mean-fp32"
    message = r"x\.npz: .* made by model mean-int8, but this is mean-fp32; .*, into another file$"
    with pytest.raises(BundleError, match=message):
        index_folders(model, [photos], path)
    assert path.read_bytes() == content


def test_an_index_of_the_library_is_continued(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    features = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    ImageIndex((str(photos / "2019" / "0.png"), "other"), features, "mean-int8").save(path)
    report = index_folders(model, [photos], path)
    assert counts(report) == {"new": 10} and report.pictures == 11
    index = ImageIndex.load(path)
    assert index.features.dtype == np.float32 and index.vector("other").tolist() == [0, 1, 0]
    assert counts(index_folders(model, [photos], path)) == {"unchanged": 10}


def test_a_second_writer_is_refused(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path)
    content = path.read_bytes()
    (photos / "2019" / "0.png").unlink()
    with locked_file(path), pytest.raises(
        TinyClipError, match=f"x.npz is in use by process {os.getpid()}; wait until it ends"
    ):  # fmt: skip
        index_folders(model, [photos], path)
    assert path.read_bytes() == content
    assert counts(index_folders(model, [photos], path)) == {"unchanged": 9, "deleted": 1}


def test_the_report_is_plain_json(model, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"junk")
    values = index_folders(model, [photos], tmp_path / "x").as_dict()
    assert values["index"] == str(tmp_path / "x.npz") and values["new"] == 10
    assert values["skipped"][0]["key"] == str(photos / "broken.jpg") and values["seconds"] > 0


def test_a_journal_that_leads_elsewhere_is_not_written_to(model, photos, tmp_path):
    """As in a folder from elsewhere: what the link names would be cut to nothing."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"do not lose this")
    (tmp_path / ".x.npz.journal").symlink_to(precious)
    with pytest.raises(DataError, match=r"\.x\.npz\.journal is not a plain file"):
        index_folders(model, [photos], tmp_path / "x.npz")
    assert precious.read_bytes() == b"do not lose this"


def test_a_lock_that_leads_elsewhere_is_not_emptied(model, photos, tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"do not lose this")
    (tmp_path / ".x.npz.lock").symlink_to(precious)
    with pytest.raises(TinyClipError, match="cannot be locked"):
        index_folders(model, [photos], tmp_path / "x.npz")
    assert precious.read_bytes() == b"do not lose this"


def test_the_decode_mode_of_an_index_stays(model, photos, tmp_path):
    large = photos / "large.jpg"
    large.parent.mkdir(exist_ok=True)
    Image.effect_mandelbrot((320, 240), (-2, -1.5, 1, 1.5), 99).convert("RGB").save(large)
    fast = replace(model, decode="fast")
    index_folders(fast, [photos], tmp_path / "a")
    before = ImageIndex.load(tmp_path / "a")
    assert before.decode == "fast"
    copied = photos / "other.jpg"
    Image.open(large).save(copied, quality=60)
    index_folders(replace(model, decode="exact"), [photos], tmp_path / "a")
    index_folders(fast, [photos], tmp_path / "b")
    after, again = ImageIndex.load(tmp_path / "a"), ImageIndex.load(tmp_path / "b")
    assert after.decode == "fast" and set(after.keys) == {*before.keys, str(copied)}
    np.testing.assert_array_equal(after.vector(str(copied)), again.vector(str(copied)))
    exact = replace(model, decode="exact")
    index_folders(exact, [photos], tmp_path / "c")
    assert ImageIndex.load(tmp_path / "c").decode == "exact"


def test_unfinished_work_of_another_decode_mode_is_refused(tmp_path):
    path = tmp_path / ".a.npz.journal"
    with Journal(path, "m-int8", 3, "fast") as journal:
        journal.write({"x": IndexedFile(1, 2, bytes(16), np.zeros(3, np.int8), 1.0)}, [])
    with pytest.raises(BundleError, match=r"work with --decode fast; finish it with the same"):
        Journal(path, "m-int8", 3)
    with Journal(path, "m-int8", 3, "fast") as journal:
        assert list(journal.files) == ["x"]
