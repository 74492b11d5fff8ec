"""Shards that were cut off: their whole samples are read, and the loss is counted."""

import zlib

import numpy as np
import pytest
from shard_files import frames, members, read, refused

from pair_shards import toy_samples, write_shard
from tinyclip_edge.data import BadSamples, Losses, open_source
from tinyclip_edge.errors import DataError

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
def test_a_cut_shard_gives_its_complete_samples(tmp_path, name, place):
    where, complete, incomplete = CUTS[place]
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
        assert [pair.key for pair in source] == [key for key, _ in samples[:complete]]
    assert source.losses.unusable == (
        incomplete if name == "a.tar" or place != "in a header" else 0
    )
    (line,) = source.losses.lines()
    assert line.startswith(f"shard {path} is truncated after {complete} samples")
    assert line.endswith("; the incomplete one is skipped") == bool(source.losses.unusable)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.77, 0.9])
def test_a_compressed_shard_cut_anywhere_gives_what_comes_before(tmp_path, share):
    # Bytes that do not compress, so that a share of the file is as much of the samples.
    noise = np.random.default_rng(0).bytes(48 * 3000)
    samples = [
        (f"k{n:02}", {"jpg": noise[n * 3000 : n * 3000 + 3000], "txt": b"words"}) for n in range(48)
    ]
    path = write_shard(tmp_path / "a.tar.gz", samples)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    cuts = Losses()
    pairs = list(read(path, cuts))
    assert [pair.key for pair in pairs] == [key for key, _ in samples[: len(pairs)]]
    assert share * 48 - 2 <= len(pairs) <= share * 48
    assert cuts.lines() == [
        f"shard {path} is truncated after {len(pairs)} samples; the incomplete one is skipped"
    ]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_shard_cut_before_its_first_complete_sample_is_an_error(tmp_path, name):
    path = write_shard(tmp_path / name, toy_samples()[:1])
    data = path.read_bytes()
    path.write_bytes(data[: 700 if name == "a.tar" else len(data) // 2])
    message = refused(read, path)
    assert f"shard {path} is truncated" in message
    assert message.endswith("; write it again")


def test_samples_after_a_cut_count_towards_one_per_cent(tmp_path):
    samples = [(f"{n}-{key}", files) for n in range(3) for key, files in toy_samples()]
    for complete, fine in ((99, True), (98, False)):
        path = write_shard(tmp_path / f"{complete}.tar", samples)
        at = members(path)[3 * complete][2] - 1
        path.write_bytes(path.read_bytes()[:at])
        bad = BadSamples(path.name, Losses())
        assert len(list(read(path, bad.losses))) == complete
        if fine:
            bad.check(complete, final=True)
        else:
            with pytest.raises(DataError, match=r"1 of 99 samples cannot be decoded or are "
                               r"truncated .*98\.tar is truncated after 98 samples"):  # fmt: skip
                bad.check(complete, final=True)


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


def test_a_shard_of_dotted_keys_that_is_cut_gives_its_complete_samples(tmp_path):
    samples = frames(12, 10)
    path = write_shard(tmp_path / "a.tar", samples)
    path.write_bytes(path.read_bytes()[: members(path)[2 * 117][2] - 1])  # in a picture
    source = open_source(str(path))
    assert [pair.key for pair in source] == [key for key, _ in samples[:117]]
    assert source.losses.unusable == 1
