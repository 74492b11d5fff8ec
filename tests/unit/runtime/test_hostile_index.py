"""Index files of strangers: texts and numbers that no index has are refused in one line."""

from __future__ import annotations

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.index import ImageIndex

FEATURES = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 1]], dtype=np.float32)


@pytest.fixture
def index():
    return ImageIndex(("a", "b", "c", "d"), FEATURES, "abc-int8")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_metadata_that_json_cannot_hold_are_refused_in_a_file(tmp_path, index, number):
    path = replace(index, metadata=({"a": 1234567},) * 4).save(tmp_path / "a.npz")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1234567", number.ljust(7).encode()[:7]))
    bad = number.startswith("-")  # cut to seven characters it is no JSON at all
    with pytest.raises(DataError, match="is not an index file" if bad else "JSON compliant"):
        read_unchecked(path)


def read_unchecked(path):
    """Read an index whose members were changed, without zip's checksums."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipExtFile, "_update_crc", lambda *_: None)
        return ImageIndex.load(path)


@pytest.mark.parametrize("code", [b"\xff\xff\xff\x7f", b"\x00\x00\x11\x00"])
def test_characters_that_do_not_exist_are_refused(tmp_path, index, code):
    """Python ends with a SystemError when such a text is printed."""
    path = index.save(tmp_path / "a.npz")
    model = "abc-int8".encode("utf-32-le")
    path.write_bytes(path.read_bytes().replace(model, code + model[4:]))
    with pytest.raises(DataError, match="characters that do not exist"):
        read_unchecked(path)


def test_a_header_of_python_2_is_refused_without_a_warning(tmp_path, index, recwarn):
    path = index.save(tmp_path / "a.npz")
    content = path.read_bytes()
    assert b"'shape': (4, 2), }  " in content
    path.write_bytes(content.replace(b"'shape': (4, 2), }  ", b"'shape': (4L, 2), } "))
    with pytest.raises(DataError, match="is not an index file"):
        read_unchecked(path)
    assert not recwarn.list
