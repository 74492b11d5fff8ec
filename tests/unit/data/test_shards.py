"""Shards: what matches, what is read, and how broken ones are named."""

import gzip
import importlib
import io
import json
import sys
import tarfile

import numpy as np
import pytest

from pair_shards import draw, encoded, toy_samples, write_shard
from tinyclip_edge.data import decode_rgb, open_source, read_shard, read_shards
from tinyclip_edge.errors import DataError


def refused(call, *args):
    with pytest.raises(DataError) as caught:
        list(call(*args))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_pairs_come_back_as_written(tmp_path, name):
    path = write_shard(tmp_path / name, toy_samples())
    pairs = list(read_shards(str(path)))
    assert len(pairs) == 48
    first = pairs[0]
    assert first.key == "small-red-square-32"
    assert first.captions == ("small red square", "a photo of the red square, small")
    assert first.concept == "small red square"
    assert first.meta == {"family": 32}
    pixels = np.asarray(decode_rgb(first.image))
    assert np.array_equal(pixels, np.asarray(draw("red", "square", "small")))


def test_captions_of_json_and_concepts_that_are_not_given(tmp_path):
    png = encoded(draw("red", "bar", "big"))
    samples = [
        ("a", {"png": png, "json": json.dumps({"caption": "A Red Bar"}).encode()}),
        ("b", {"jpg": png, "json": json.dumps({"caption": ["one", "two"]}).encode()}),
        ("c.x", {"png": png, "txt": b"  spaced \n\n second\n"}),
    ]
    pairs = list(read_shard(write_shard(tmp_path / "a.tar", samples)))
    assert [p.captions for p in pairs] == [("A Red Bar",), ("one", "two"), ("spaced", "second")]
    assert [p.concept for p in pairs] == ["a red bar", "one", "spaced"]


def test_braces_wildcards_and_lists(tmp_path):
    for number in range(3):
        write_shard(tmp_path / f"s-{number:03d}.tar", toy_samples()[number : number + 1])
    names = [str(tmp_path / f"s-{number:03d}.tar") for number in range(3)]
    for pattern in (str(tmp_path / "s-{000..002}.tar"), str(tmp_path / "s-*.tar"), names):
        assert [str(shard.path) for shard in open_source(pattern).parts] == names
    assert len(open_source([names[0], names[0]]).parts) == 1


@pytest.mark.parametrize("pattern", ["none-*.tar", "none.tar", "s-{0..1}.tar", "s-{0..1.tar"])
def test_a_pattern_without_a_match_is_named(tmp_path, pattern):
    write_shard(tmp_path / "s-0.tar", toy_samples()[:1])
    assert str(tmp_path / pattern) in refused(read_shards, str(tmp_path / pattern))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("pipe:cat x.tar", "set data.allow_pipes=true"),
        ("s3://bucket/x.tar", "'pipe:aws s3 cp s3://bucket/x.tar -'"),
        ("ftp://host/x.tar", "only local files, http://, https:// and pipe:"),
    ],
)
def test_what_runs_a_command_is_refused(pattern, told):
    assert told in refused(read_shards, pattern)


def test_an_unknown_split_of_the_starter_kit(tmp_path):
    assert "starter kit has no split 'trian'" in refused(read_shards, "starter:trian")


def test_empty_shards(tmp_path):
    assert "is empty" in refused(read_shard, write_shard(tmp_path / "a.tar", []))
    (tmp_path / "b.tar").write_bytes(b"")
    assert f"{tmp_path / 'b.tar'} is empty" in refused(read_shard, tmp_path / "b.tar")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.77, 0.9])
def test_a_cut_shard_is_named(tmp_path, name, share):
    path = write_shard(tmp_path / name, toy_samples())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = refused(read_shard, path)
    assert str(path) in message
    assert "cut off" in message


def test_a_cut_between_two_members_is_noticed(tmp_path):
    path = write_shard(tmp_path / "a.tar", toy_samples())
    with tarfile.open(path) as tar:
        end = tar.getmembers()[30].offset  # header of a later sample
    path.write_bytes(path.read_bytes()[:end])
    assert "cut off after 10 samples" in refused(read_shard, path)


def test_other_files_are_no_shards(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello " * 500)
    assert "broken" in refused(read_shard, tmp_path / "a.tar")
    zipped = bytearray(gzip.compress(bytes(4096)))
    zipped[-6] ^= 1  # checksum
    (tmp_path / "b.tar.gz").write_bytes(bytes(zipped))
    assert "b.tar.gz" in refused(read_shard, tmp_path / "b.tar.gz")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"png": b"x"}, "'k' has no caption"),
        ({"png": b"x", "txt": b" \n"}, "'k' has no caption"),
        ({"png": b"x", "txt": b"\xff"}, "caption of 'k' cannot be read"),
        ({"png": b"x", "json": b"{"}, "caption of 'k' cannot be read"),
        ({"png": b"x", "json": b"[1]"}, "caption of 'k' cannot be read"),
        ({"txt": b"words"}, "sample 'k' has no image"),
    ],
)
def test_an_incomplete_sample_is_named(tmp_path, files, told):
    message = refused(read_shard, write_shard(tmp_path / "a.tar", [("k", files)]))
    assert told in message
    assert str(tmp_path / "a.tar") in message


def test_a_member_that_stands_twice(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("k.txt"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert "k.txt" in refused(read_shard, tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("package", "module"), [("braceexpand", "opening"), ("webdataset", "shards")]
)
def test_a_missing_package_keeps_its_name_for_the_command_line(monkeypatch, package, module):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"tinyclip_edge.data.{module}")
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(f"tinyclip_edge.data.{module}")
    assert caught.value.name.split(".")[0] == package
