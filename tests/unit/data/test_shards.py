"""Shards: what a pattern matches, and what is read."""

import gzip
import importlib
import json
import os
import sys

import numpy as np
import pytest
from shard_files import frames, read, refused

from pair_shards import draw, encoded, toy_samples, write_shard
from tinyclip_edge.data import check_source, decode_image, open_source


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_pairs_come_back_as_written(tmp_path, name):
    path = write_shard(tmp_path / name, toy_samples())
    pairs = list(open_source(str(path)))
    assert len(pairs) == 48
    first = pairs[0]
    assert first.key == "small-red-square-32"
    assert first.captions == ("small red square", "a photo of the red square, small")
    assert first.concept == "small red square"
    assert first.meta == {"family": 32}
    pixels = np.asarray(decode_image(first.image))
    assert np.array_equal(pixels, np.asarray(draw("red", "square", "small")))


def test_captions_of_json_and_concepts_that_are_absent(tmp_path):
    png = encoded(draw("red", "bar", "big"))
    samples = [
        ("a", {"png": png, "json": json.dumps({"caption": "A Red Bar"}).encode()}),
        ("b", {"jpg": png, "json": json.dumps({"caption": ["one", "two"]}).encode()}),
        ("c.x", {"png": png, "txt": b"  spaced \n\n second\n"}),
    ]
    pairs = list(read(write_shard(tmp_path / "a.tar", samples)))
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
    assert str(tmp_path / pattern) in refused(open_source, str(tmp_path / pattern))


@pytest.mark.parametrize("name", ["a.tar", "a.csv", "a.json", "pictures"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    message = f"{tmp_path / name} is neither a file nor a folder"
    assert refused(open_source, str(tmp_path / name)) == message
    assert refused(check_source, str(tmp_path / name)) == message


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("pipe:cat x.tar", "set data.allow_pipes=true"),
        ("s3://bucket/x.tar", "'pipe:aws s3 cp s3://bucket/x.tar -'"),
        ("ftp://host/x.tar", "only local files, http://, https:// and pipe:"),
    ],
)
def test_what_runs_a_command_is_refused(pattern, message):
    assert message in refused(open_source, pattern)


def test_an_unknown_split_of_the_starter_kit(tmp_path):
    assert "starter kit has no split 'trian'" in refused(open_source, "starter:trian")


def test_empty_shards(tmp_path):
    message = refused(read, write_shard(tmp_path / "a.tar", []))
    assert message == f"shard {tmp_path / 'a.tar'} is empty: no KEY.jpg with KEY.txt in it"
    (tmp_path / "b.tar").write_bytes(b"")
    assert f"{tmp_path / 'b.tar'} is empty" in refused(read, tmp_path / "b.tar")


def test_other_files_are_no_shards(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello " * 500)
    assert "is not a tar but text; a table of image paths" in refused(read, tmp_path / "a.tar")
    zipped = bytearray(gzip.compress(bytes(4096)))
    zipped[-6] ^= 1  # checksum
    (tmp_path / "b.tar.gz").write_bytes(bytes(zipped))
    assert "b.tar.gz" in refused(read, tmp_path / "b.tar.gz")


@pytest.mark.parametrize(
    ("package", "module"), [("braceexpand", "patterns"), ("webdataset", "shards")]
)
def test_a_missing_package_keeps_its_name_for_the_command_line(monkeypatch, package, module):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"tinyclip_edge.data.{module}")
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(f"tinyclip_edge.data.{module}")
    assert caught.value.name.split(".")[0] == package


def test_keys_with_dots_are_samples_of_their_own(tmp_path):
    samples = frames(80, 10)
    source = open_source(str(write_shard(tmp_path / "a.tar", samples)))
    assert [(pair.key, pair.captions) for pair in source] == [
        (key, (files["txt"].decode(),)) for key, files in samples
    ]
    # Shuffled, the frames of a clip stand apart: their keys still differ.
    apart = [samples[number] for number in np.random.default_rng(0).permutation(800)]
    source = open_source(str(write_shard(tmp_path / "b.tar", apart)))
    assert [pair.key for pair in source] == [key for key, _ in apart]


@pytest.mark.parametrize("place", ["~", "$DATA"])
def test_home_and_variables_are_filled_in(tmp_path, monkeypatch, place):
    write_shard(tmp_path / "a-0.tar", toy_samples()[:3])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path))
    for name in ("a-0.tar", "a-*.tar"):
        assert len(list(open_source(f"{place}/{name}"))) == 3


@pytest.mark.parametrize("place", ["", "./", "img/"])
def test_what_macos_puts_beside_files_is_no_sample(tmp_path, place):
    samples = []
    for key, files in toy_samples()[:3]:
        samples += [(f"{place}._{key}", dict.fromkeys(files, b"Mac OS X")), (place + key, files)]
    source = open_source(str(write_shard(tmp_path / "a.tar", samples)))
    assert [pair.key for pair in source] == [f"{place}{key}" for key, _ in toy_samples()[:3]]
    assert source.losses.lines() == []
