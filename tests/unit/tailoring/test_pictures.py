"""The list of pictures: digests, unreadable files, changes."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from PIL import Image

from tinyclip_edge.errors import DataError
from tinyclip_edge.tailoring.pictures import PictureList, list_pictures


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_digests_are_those_of_the_content(folder):
    seen = []
    listed = list_pictures(folder, lambda done, total: seen.append((done, total)))
    first = listed.pictures[0]
    assert first.path == str(folder / "0.png")
    assert first.sha256 == hashlib.sha256((folder / "0.png").read_bytes()).hexdigest()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert PictureList.from_dict(json.loads(json.dumps(listed.as_dict()))) == listed


def test_one_per_cent_may_be_unreadable(folder):
    for i in range(4, 99):
        os.link(folder / "0.png", folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    listed = list_pictures(folder)
    assert len(listed.pictures) == 99 and listed.unreadable == (str(folder / "bad.png"),)
    with pytest.raises(DataError, match=r"2 of 100 pictures cannot be read \(at most 1% may be\)"):
        listed.without((str(folder / "0.png"),)).check_readable()


def test_a_folder_that_changes(folder):
    listed = list_pictures(folder)
    Image.new("RGB", (8, 8)).save(folder / "new.png")
    listed.check_unchanged()  # a new file is no part of it
    (folder / "2.png").write_bytes(b"another")
    (folder / "1.png").unlink()
    with pytest.raises(DataError, match=r"2 of 4 pictures were deleted .* first .*1\.png"):
        listed.check_unchanged()
