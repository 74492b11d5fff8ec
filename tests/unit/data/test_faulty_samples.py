"""Samples without a caption or an image, or with two: named, skipped, and counted."""

import io
import tarfile

import pytest
from shard_files import read, refused

from pair_shards import toy_samples, write_shard
from tinyclip_edge.data import BadSamples, open_source
from tinyclip_edge.errors import DataError


def test_a_key_that_stands_twice_in_a_shard_is_named(tmp_path):
    samples = toy_samples()
    path = write_shard(tmp_path / "a.tar", [*samples[:5], samples[2]])
    message = f"shard {path}: key '{samples[2][0]}' appears twice; give each sample its own"
    assert refused(read, path) == message
    # In another shard it is another pair: data sets are joined whose names are numbers.
    for number in range(2):
        write_shard(tmp_path / f"s-{number}.tar", samples[:3])
    assert len(list(open_source(str(tmp_path / "s-*.tar")))) == 6


@pytest.mark.parametrize(
    ("files", "expected_message"),
    [
        ({"png": b"x"}, "'k' has no caption"),
        ({"png": b"x", "txt": b" \n"}, "'k' has no caption"),
        ({"png": b"x", "txt": b"\xff"}, "caption of 'k' cannot be read"),
        ({"png": b"x", "json": b"{"}, "caption of 'k' cannot be read"),
        ({"png": b"x", "json": b"[1]"}, "caption of 'k' cannot be read"),
        (
            {"png": b"x", "json": b'{"caption":"a","b":[' + b"[]," * 500_000 + b"1]}"},
            "caption of 'k' cannot be read (it has more than 1,000,000 values)",
        ),
        ({"txt": b"words"}, "sample 'k' has no image"),
    ],
)
def test_an_incomplete_sample_is_named(tmp_path, files, expected_message):
    source = open_source(str(write_shard(tmp_path / "a.tar", [("k", files)])))
    message = refused(lambda: list(source))
    assert expected_message in message
    assert str(tmp_path / "a.tar") in message


def test_a_member_that_stands_twice(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("k.txt"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert "k.txt" in refused(read, tmp_path / "a.tar")


@pytest.mark.parametrize(
    "files",
    [
        {"jpg": b"x", "seg.png": b"y", "txt": b"words"},
        {"jpg": b"x", "png": b"y", "txt": b"words"},
        {"0.jpg": b"x", "1.jpg": b"y", "txt": b"words"},
    ],
)
def test_two_images_of_one_sample_are_refused_by_name(tmp_path, files):
    first, other = (name for name in files if name != "txt")
    message = refused(read, write_shard(tmp_path / "a.tar", [("k", files)]))
    assert f"a.tar: sample 'k' has two images, 'k.{first}' and 'k.{other}'" in message


def test_members_of_a_key_that_do_not_stand_together_are_named(tmp_path):
    samples = toy_samples()[:3]
    apart = [(key, {ending: files[ending]}) for ending in ("png", "txt") for key, files in samples]
    message = refused(read, write_shard(tmp_path / "a.tar", apart))
    key = samples[0][0]
    assert f"'{key}.png' and '{key}.txt' are not adjacent" in message
    assert "tar --sort=name" in message


FAULTS = {
    "no caption": ({"png": b"", "txt": b" "}, "has no caption"),
    "not utf-8": ({"png": b"", "txt": "caf\u00e9".encode("latin-1")}, "cannot be read"),
    "no text": ({"png": b"", "json": b'{"caption": {"en": "x"}}'}, "an object is not text"),
    "no image": ({"txt": b"words"}, "has no image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_faulty_sample_of_a_hundred_is_skipped_and_two_are_too_many(tmp_path, fault):
    files, message = FAULTS[fault]
    good = [(f"{n}-{key}", sample) for n in range(3) for key, sample in toy_samples()]
    shard = write_shard(tmp_path / "a.tar", [*good[:50], ("faulty", files), *good[50:99]])
    source = open_source(str(shard))
    for _ in range(2):  # as in two epochs
        assert [pair.key for pair in source] == [key for key, _ in good[:99]]
    (line,) = BadSamples(source.name, source.losses).report(99)
    assert line.startswith(f"skipped 1 faulty sample: shard {shard}: ")
    assert "'faulty'" in line and message in line
    shard = write_shard(tmp_path / "b.tar", [*good[:98], ("faulty", files)])
    source = open_source(str(shard))
    with pytest.raises(DataError, match=r"1 of 99 samples cannot be used .*'faulty'"):
        list(source)


def test_a_broken_picture_and_a_missing_caption_count_together(tmp_path):
    good = [(f"{n}-{key}", sample) for n in range(5) for key, sample in toy_samples()]
    broken = ("broken", {"png": b"junk", "txt": b"words"})
    bare = ("bare", {"png": good[0][1]["png"]})
    for count, fine in ((198, True), (197, False)):
        shard = write_shard(tmp_path / f"{count}.tar", [*good[:count], broken, bare])
        source = open_source(str(shard))
        pairs = list(source)
        bad = BadSamples(source.name, source.losses)
        bad.add("broken")
        if fine:
            bad.check(len(pairs), final=True)
            continue
        with pytest.raises(DataError, match=r"2 of 199 samples cannot be used .*broken.*'bare'"):
            bad.check(len(pairs), final=True)
