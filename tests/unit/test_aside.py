"""Folders that appear whole or not at all, whatever kills the process that makes them."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from killing import killed
from tinyclip_edge.aside import clear_leftovers, locked, refuse_locked, work_folder, written_aside
from tinyclip_edge.errors import TinyClipError

OLD, NEW = {"a": "1", "b": "2"}, {"a": "3", "c": "4"}


def write(folder, files=NEW):
    with written_aside(folder) as aside:
        for name, text in files.items():
            (aside / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("stood", [True, False])
def test_a_kill_leaves_the_old_folder_or_the_new_one(tmp_path, stood):
    target = tmp_path / "target"
    for moment in range(100):
        if stood:
            write(target, OLD)
        was_killed = killed(lambda: write(target), inside=tmp_path, at=moment)
        clear_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] in ([target.name], [])
        if stood or target.exists():
            assert content(target) in (OLD, NEW)
        if not was_killed:
            break
        if target.exists() and not stood:
            for path in target.iterdir():
                path.unlink()
            target.rmdir()
    assert content(target) == NEW
    assert moment > 4


def test_the_next_writer_removes_what_a_killed_one_wrote(tmp_path):
    assert killed(lambda: write(tmp_path / "one"), inside=tmp_path, at=3)
    assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_what_a_living_process_writes_is_untouched(tmp_path):
    with work_folder(tmp_path / "one") as work:
        (work / "file").write_text("x")
        assert not killed(lambda: clear_leftovers(tmp_path), inside=tmp_path)
        clear_leftovers(tmp_path)
        assert (work / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_are_untouched(tmp_path):
    for name in (".mine.12345678.partial", "x.partial", ".partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / ".link.12345678.partial").symlink_to(tmp_path / "x.partial")
    before = sorted(tmp_path.rglob("*"))
    clear_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_exception_between_the_two_renames_puts_the_old_folder_back(tmp_path, monkeypatch):
    write(tmp_path / "target", OLD)
    rename = Path.rename

    def refused(path, place):
        if path.name == "new":
            raise SystemExit(143)
        return rename(path, place)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(SystemExit):
        write(tmp_path / "target")
    assert content(tmp_path / "target") == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def hold(folder, ready):
    with locked(folder):
        ready.set()
        signal.pause()


def test_a_folder_is_locked_by_one_process_until_it_dies(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready), daemon=True)
    other.start()
    assert ready.wait(60)
    for ask in (locked(tmp_path).__enter__, lambda: refuse_locked(tmp_path)):
        with pytest.raises(TinyClipError, match=rf"is in use by process {other.pid}; wait"):
            ask()
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    refuse_locked(tmp_path)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "who"),
    [
        (b"77 elsewhere", "process 77 on elsewhere"),
        (b"", "another process"),
        (b"77 a b", "another process"),
        (b"\xff" * 10**6, "another process"),
    ],
)
def test_what_a_lock_says_of_its_holder_is_read_with_care(tmp_path, content, who):
    with locked(tmp_path):
        (tmp_path / ".lock").write_bytes(content)
        with pytest.raises(TinyClipError, match=rf" is in use by {who}; wait"):
            refuse_locked(tmp_path)


def test_a_folder_that_nobody_holds_gets_no_lock_from_a_check(tmp_path):
    refuse_locked(tmp_path)
    refuse_locked(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
