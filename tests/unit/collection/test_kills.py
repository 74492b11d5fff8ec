"""A process that indexes is killed at any moment: nothing is lost, nothing is there twice."""

from __future__ import annotations

import os
import resource
import signal

import numpy as np
import pytest
from colour_model import check_rows, counts, expected, names, paint

from killing import killed
from tinyclip_edge.collection.folder_index import index_folders
from tinyclip_edge.collection.journal import IndexedFile, Journal, journal_path
from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.runtime.index import ImageIndex


def change(photos):
    """Make one of each: new, changed, moved, deleted."""
    paint(photos / "2021" / "new.png", 1, 2, 3)
    paint(photos / "2019" / "0.png", 3, 2, 1)
    (photos / "2019" / "1.png").rename(photos / "moved.png")
    (photos / "2019" / "2.png").unlink()


def is_whole(path, photos, tmp_path):
    present = {str(file) for file in photos.rglob("*.png")}
    assert set(check_rows(path)) == present
    assert names(tmp_path) == [".x.npz.lock", "photos", "x.npz"]


def test_kills_before_every_change_on_disk(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    killed_at = 0
    for begin in (lambda _: None, change):
        begin(photos)
        for at in range(100):
            before = ImageIndex.load(path).keys if path.exists() else None
            if not killed(index_folders, model, [photos], path, inside=tmp_path, at=at):
                break
            killed_at += 1
            if before is not None:  # readers see a whole index at any time
                ImageIndex.load(path)
        is_whole(path, photos, tmp_path)
    assert killed_at >= 6


def test_kills_after_every_picture_go_on_where_they_were(model, photos, tmp_path):
    path = tmp_path / "x.npz"

    def work(at):
        def end(done, total):
            if done == min(at, total):
                os.kill(os.getpid(), signal.SIGKILL)

        index_folders(model, [photos], path, progress=end)

    kills = 0
    for number in range(20):
        paint(photos / f"{number}.png", number, number, 200)
        kills += killed(work, 1 + number % 7, inside=tmp_path)
    assert kills == 20
    report = index_folders(model, [photos], path)
    assert report.pictures == 30 and report.unchanged > 0
    is_whole(path, photos, tmp_path)


def entry(number):
    code = np.array([127, number, -number], np.int8)
    return IndexedFile(10 + number, number, bytes([number] * 16), code, 0.5)


def test_a_journal_cut_anywhere_is_its_beginning(tmp_path):
    path = tmp_path / "journal"
    sizes = []
    with Journal(path, "model", 3) as journal:
        for number in range(4):
            journal.write({f"a{number}": entry(number)}, [f"b{number}"])
            sizes.append(path.stat().st_size)
    content = path.read_bytes()
    for size in range(0, len(content) + 1, 3):
        path.write_bytes(content[:size])
        with Journal(path, "model", 3) as journal:
            whole = sum(size >= end for end in sizes)
            assert list(journal.files) == [f"a{number}" for number in range(whole)]
            assert journal.removed == {f"b{number}" for number in range(whole)}
            journal.write({"last": entry(9)}, [])
        with Journal(path, "model", 3) as journal:
            read = journal.files["last"]
            assert read[:3] == entry(9)[:3] and read.code.tolist() == [127, 9, -9]
            assert read.scale == 0.5


def test_many_removals_are_read_again(tmp_path):
    keys = {f"a, [{number}]" for number in range(25_000)}
    for count in (9_999, 10_000, 10_001, 25_000):
        removed = set(sorted(keys)[:count])
        with Journal(tmp_path / f"{count}", "model", 3) as journal:
            journal.write({"new": entry(1)}, removed)
        with Journal(tmp_path / f"{count}", "model", 3) as journal:
            assert journal.removed == removed and list(journal.files) == ["new"]


def test_a_journal_that_is_broken_or_of_another_model(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, "model", 3) as journal:
        journal.write({"a": entry(1)}, [])
    with pytest.raises(BundleError, match="unfinished work of model model, but this is other"):
        Journal(path, "other", 3)
    with pytest.raises(BundleError, match="unfinished work"):
        Journal(path, "model", 4)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the checksum of the last record
    path.write_bytes(content)
    with Journal(path, "model", 3) as journal:
        assert journal.files == {}


def test_work_of_a_killed_process_is_not_done_again(model, photos, tmp_path):
    path = tmp_path / "x.npz"

    def end(done, _):
        if done == 9:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        index_folders(model, [photos], path, progress=end)

    assert killed(work, inside=tmp_path) and journal_path(path).exists() and not path.exists()
    assert counts(index_folders(model, [photos], path)) == {"unchanged": 8, "new": 2}
    assert model.embedded == 2
    np.testing.assert_allclose(
        ImageIndex.load(path).vector(str(photos / "2019" / "1.png")),
        expected((25, 99, 7)), atol=0.006,
    )  # fmt: skip


def test_an_interrupted_run_keeps_what_it_did(model, photos, tmp_path):
    path = tmp_path / "x.npz"

    def end(done, _):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_folders(model, [photos], path, progress=end)
    assert len(check_rows(path)) == 8 and not journal_path(path).exists()
    assert counts(index_folders(model, [photos], path)) == {"unchanged": 8, "new": 2}


def test_a_full_disk_keeps_the_index_and_is_one_line(model, photos, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path)
    content = path.read_bytes()
    change(photos)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*x\.npz: No space left on device"):
        index_folders(model, [photos], path)
    assert path.read_bytes() == content
    monkeypatch.undo()
    index_folders(model, [photos], path)
    is_whole(path, photos, tmp_path)


def test_a_disk_that_fills_up_meanwhile(model, photos, tmp_path):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path)
    content = path.read_bytes()
    for number in range(40):
        paint(photos / f"{number}.png", number, number, 200)

    def work(most):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        with pytest.raises(DataError, match=r"cannot write .*x\.npz.*: File too large"):
            index_folders(model, [photos], path)

    for most in (900, 2000, 3000):  # bytes of a file; the journal needs 4,000
        assert not killed(work, most, inside=tmp_path)
        assert path.read_bytes() == content
        assert journal_path(path).stat().st_size <= most
    assert index_folders(model, [photos], path).unchanged > 10
    is_whole(path, photos, tmp_path)
