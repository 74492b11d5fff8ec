"""Shards: what matches, what is read, and how broken ones are named."""

import gzip
import importlib
import io
import json
import sys
import tarfile
import zlib

import numpy as np
import pytest

from pair_shards import draw, encoded, toy_samples, write_shard
from tinyclip_edge.data import BadSamples, Losses, decode_image, open_source, read_shard
from tinyclip_edge.errors import DataError


def read(path, losses=None):
    return read_shard(path, Losses() if losses is None else losses)


def refused(call, *args):
    with pytest.raises(DataError) as caught:
        list(call(*args))
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_captions_of_json_and_concepts_that_are_not_given(tmp_path):
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


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("pipe:cat x.tar", "set data.allow_pipes=true"),
        ("s3://bucket/x.tar", "'pipe:aws s3 cp s3://bucket/x.tar -'"),
        ("ftp://host/x.tar", "only local files, http://, https:// and pipe:"),
    ],
)
def test_what_runs_a_command_is_refused(pattern, told):
    assert told in refused(open_source, pattern)


def test_an_unknown_split_of_the_starter_kit(tmp_path):
    assert "starter kit has no split 'trian'" in refused(open_source, "starter:trian")


def test_empty_shards(tmp_path):
    told = refused(read, write_shard(tmp_path / "a.tar", []))
    assert told == f"shard {tmp_path / 'a.tar'} is empty: no KEY.jpg with KEY.txt in it"
    (tmp_path / "b.tar").write_bytes(b"")
    assert f"{tmp_path / 'b.tar'} is empty" in refused(read, tmp_path / "b.tar")


def members(path):
    """Each member's name, the place of its header and the end of its content."""
    with tarfile.open(path) as tar:
        return [(m.name, m.offset, m.offset_data + m.size) for m in tar.getmembers()]


# Where it is cut, counted by hand: sample 10 has members 30, 31 and 32.
CUTS = {
    "in a picture": (lambda m: m[30][2] - 1, 10, 1),
    "in the last member": (lambda m: m[32][2] - 1, 10, 1),
    "after the picture": (lambda m: m[31][1], 10, 1),
    "in the padding of the last member": (lambda m: m[32][2], 11, 0),
    "between two samples": (lambda m: m[33][1], 11, 0),
    "in a header": (lambda m: m[33][1] + 100, 11, 1),
    "in the second picture": (lambda m: m[3][2] - 1, 1, 1),
    "before the end": (lambda m: m[-1][1] + 1024, 48, 0),
}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("place", CUTS)
def test_a_cut_shard_gives_its_whole_samples(tmp_path, name, place):
    where, whole, lost = CUTS[place]
    samples = toy_samples()
    data = write_shard(tmp_path / "a.tar", samples).read_bytes()
    at = where(members(tmp_path / "a.tar"))
    if name == "a.tar.gz":  # a full flush: the compressed file may be cut exactly there
        packer = zlib.compressobj(wbits=31)
        data = packer.compress(data[:at]) + packer.flush(zlib.Z_FULL_FLUSH)
        at = len(data)
    path = tmp_path / name
    path.write_bytes(data[:at])
    source = open_source(str(path))
    for _ in range(2):  # as in two epochs
        assert [pair.key for pair in source] == [key for key, _ in samples[:whole]]
    assert source.losses.unusable == (lost if name == "a.tar" or place != "in a header" else 0)
    (line,) = source.losses.lines()
    assert line.startswith(f"shard {path} is truncated after {whole} samples")
    assert line.endswith("; the incomplete one is skipped") == bool(source.losses.unusable)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.77, 0.9])
def test_a_compressed_shard_cut_anywhere_gives_what_comes_before(tmp_path, share):
    # Bytes that do not compress, so that a share of the file is as much of the samples.
    noise = np.random.default_rng(0).bytes(48 * 3000)
    samples = [
        (f"k{n:02}", {"jpg": noise[n * 3000 : n * 3000 + 3000], "txt": b"words"}) for n in range(48)
    ]
    path = write_shard(tmp_path / "a.tar.gz", samples)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    cuts = Losses()
    pairs = list(read(path, cuts))
    assert [pair.key for pair in pairs] == [key for key, _ in samples[: len(pairs)]]
    assert share * 48 - 2 <= len(pairs) <= share * 48
    assert cuts.lines() == [
        f"shard {path} is truncated after {len(pairs)} samples; the incomplete one is skipped"
    ]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_shard_cut_before_its_first_whole_sample_is_an_error(tmp_path, name):
    path = write_shard(tmp_path / name, toy_samples()[:1])
    data = path.read_bytes()
    path.write_bytes(data[: 700 if name == "a.tar" else len(data) // 2])
    message = refused(read, path)
    assert f"shard {path} is truncated" in message
    assert message.endswith("; write it again")


def test_what_a_cut_lost_counts_towards_one_per_cent(tmp_path):
    samples = [(f"{n}-{key}", files) for n in range(3) for key, files in toy_samples()]
    for whole, fine in ((99, True), (98, False)):
        path = write_shard(tmp_path / f"{whole}.tar", samples)
        at = members(path)[3 * whole][2] - 1
        path.write_bytes(path.read_bytes()[:at])
        bad = BadSamples(path.name, Losses())
        assert len(list(read(path, bad.losses))) == whole
        if fine:
            bad.check(whole, final=True)
        else:
            with pytest.raises(DataError, match=r"1 of 99 samples cannot be decoded or are "
                               r"truncated .*98\.tar is truncated after 98 samples"):  # fmt: skip
                bad.check(whole, final=True)


def test_a_shard_that_is_broken_in_the_middle_is_no_cut_one(tmp_path):
    noise = np.random.default_rng(0).bytes(200_000)
    samples = [
        (f"k{n}", {"jpg": noise[n * 4000 : n * 4000 + 4000], "txt": b"w"}) for n in range(50)
    ]
    path = write_shard(tmp_path / "a.tar.gz", samples)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # checksum
    path.write_bytes(bytes(data))
    assert f"{path} is truncated or damaged (CRC check failed" in refused(read, path)


def test_a_key_that_stands_twice_in_a_shard_is_named(tmp_path):
    samples = toy_samples()
    path = write_shard(tmp_path / "a.tar", [*samples[:5], samples[2]])
    told = f"shard {path}: key '{samples[2][0]}' appears twice; give each sample its own"
    assert refused(read, path) == told
    # In another shard it is another pair: data sets are joined whose names are numbers.
    for number in range(2):
        write_shard(tmp_path / f"s-{number}.tar", samples[:3])
    assert len(list(open_source(str(tmp_path / "s-*.tar")))) == 6


def test_other_files_are_no_shards(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello " * 500)
    assert "is not a tar but text; a table of image paths" in refused(read, tmp_path / "a.tar")
    zipped = bytearray(gzip.compress(bytes(4096)))
    zipped[-6] ^= 1  # checksum
    (tmp_path / "b.tar.gz").write_bytes(bytes(zipped))
    assert "b.tar.gz" in refused(read, tmp_path / "b.tar.gz")


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
    source = open_source(str(write_shard(tmp_path / "a.tar", [("k", files)])))
    message = refused(lambda: list(source))
    assert told in message
    assert str(tmp_path / "a.tar") in message


def test_a_member_that_stands_twice(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("k.txt"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert "k.txt" in refused(read, tmp_path / "a.tar")


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


def frames(clips, count):
    """Samples as cutters of videos write them: the key has a dot."""
    picture = encoded(draw("red", "bar", "big"))
    return [
        (f"clip{clip:03}.frame{frame:02}", {"jpg": picture, "txt": f"{clip} at {frame}".encode()})
        for clip in range(clips)
        for frame in range(count)
    ]


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


def test_a_shard_of_dotted_keys_that_is_cut_gives_its_whole_samples(tmp_path):
    samples = frames(12, 10)
    path = write_shard(tmp_path / "a.tar", samples)
    path.write_bytes(path.read_bytes()[: members(path)[2 * 117][2] - 1])  # in a picture
    source = open_source(str(path))
    assert [pair.key for pair in source] == [key for key, _ in samples[:117]]
    assert source.losses.unusable == 1


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
    told = refused(read, write_shard(tmp_path / "a.tar", [("k", files)]))
    assert f"a.tar: sample 'k' has two images, 'k.{first}' and 'k.{other}'" in told


def test_members_of_a_key_that_do_not_stand_together_are_named(tmp_path):
    samples = toy_samples()[:3]
    apart = [(key, {ending: files[ending]}) for ending in ("png", "txt") for key, files in samples]
    told = refused(read, write_shard(tmp_path / "a.tar", apart))
    key = samples[0][0]
    assert f"'{key}.png' and '{key}.txt' are not adjacent" in told
    assert "tar --sort=name" in told


FAULTS = {
    "no caption": ({"png": b"", "txt": b" "}, "has no caption"),
    "not utf-8": ({"png": b"", "txt": "caf\u00e9".encode("latin-1")}, "cannot be read"),
    "no text": ({"png": b"", "json": b'{"caption": {"en": "x"}}'}, "an object is not text"),
    "no image": ({"txt": b"words"}, "has no image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_faulty_sample_of_a_hundred_is_skipped_and_said_two_are_too_many(tmp_path, fault):
    files, told = FAULTS[fault]
    good = [(f"{n}-{key}", sample) for n in range(3) for key, sample in toy_samples()]
    shard = write_shard(tmp_path / "a.tar", [*good[:50], ("faulty", files), *good[50:99]])
    source = open_source(str(shard))
    for _ in range(2):  # as in two epochs
        assert [pair.key for pair in source] == [key for key, _ in good[:99]]
    (line,) = BadSamples(source.name, source.losses).report(99)
    assert line.startswith(f"skipped 1 faulty sample: shard {shard}: ")
    assert "'faulty'" in line and told in line
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
