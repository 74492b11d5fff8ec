"""Shards and tables above the limits are refused before they are in memory."""

import gzip
import io
import tarfile
import tracemalloc

import pytest

from pair_shards import draw, encoded
from tinyclip_edge.config import load_config
from tinyclip_edge.config.limits import LimitsConfig
from tinyclip_edge.config.source_options import SourceOptions
from tinyclip_edge.data import open_source
from tinyclip_edge.data.tar_members import MeteredStream
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.evaluation.class_images import class_images

MIB = 1 << 20
PNG = encoded(draw("red", "square", "big"))


def header(name, kind, size):
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def files(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def refused(path, **limits):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"^[^\n]+$") as caught:
            list(open_source(str(path), SourceOptions(limits=LimitsConfig(**limits))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    return str(caught.value), peak / MIB


def zeros(count):
    """A gzip of so many MiB of zeros, a thousandth of their size."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        for _ in range(count):
            file.write(bytes(MIB))
    return buffer.getvalue()


LONG = b"\0" * (4 * MIB)
HEADERS = {
    "a long name": header("././@LongLink", b"L", len(LONG)) + LONG,
    "a pax record": header("pax", b"x", len(LONG)) + LONG,
    "a global pax record": header("pax", b"g", len(LONG)) + LONG,
    "a chain of names": (header("././@LongLink", b"L", 5) + b"a.png".ljust(512, b"\0")) * 4000,
    "a chain of records": (header("pax", b"x", 13) + b"13 path=abcd\n".ljust(512, b"\0")) * 4000,
    "empty records": header("pax", b"g", 0) * 8000,
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_without_end_are_not_read(tmp_path, kind):
    path = tmp_path / "a.tar"
    path.write_bytes(HEADERS[kind] + files(("a.png", PNG), ("a.txt", b"a")))
    message, peak = refused(path)
    assert "data.limits.header_kb" in message or "headers without a member" in message
    assert peak < 4


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a.mp4"])
def test_a_member_above_the_limit_is_not_read(tmp_path, name):
    path = tmp_path / "a.tar.gz"
    content = header(name, b"0", 600 * MIB)
    path.write_bytes(gzip.compress(content) + zeros(600))
    message, peak = refused(path)
    assert f"member '{name}' has 629,145,600 bytes, more than 64 MiB" in message
    assert "data.limits.member_mb" in message
    assert peak < 4


def test_a_sparse_map_that_claims_exabytes_ends_with_the_file(tmp_path, monkeypatch):
    reads = []
    read = MeteredStream.read
    monkeypatch.setattr(MeteredStream, "read", lambda *a: reads.append(1) or read(*a))
    path = tmp_path / "a.tar"
    path.write_bytes(header("a.png", b"S", 1 << 60) + bytes(512))
    assert "unexpected end of data" in refused(path)[0]
    assert len(reads) < 40


def test_a_size_in_a_pax_record_counts(tmp_path):
    path = tmp_path / "a.tar"
    record = b"18 size=999999999\n"
    path.write_bytes(header("pax", b"x", 18) + record.ljust(512, b"\0") + files(("a.png", PNG)))
    message, _ = refused(path)
    assert "member 'a.png' has 999,999,999 bytes" in message


def test_what_unpacks_to_a_hundred_times_its_size_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header("__a__", b"0", 900 * MIB)) + zeros(40))
    message, peak = refused(path, member_mb=1000)
    assert "unpacks to more than 100 times its size; raise data.limits.ratio" in message
    assert peak < 4
    message, _ = refused(path, member_mb=1000, ratio=2000)
    assert "truncated" in message


def test_members_without_end_and_samples_of_many_members(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(files(*[(f"a.{n}.png", PNG) for n in range(50)]))
    assert "more than 20 members (data.limits.members)" in refused(path, members=20)[0]
    path.write_bytes(files(*[(f"a.{n}.png", bytes(MIB)) for n in range(9)]))
    message, peak = refused(path, sample_mb=4)
    assert "'a' has more than 4 MiB; raise data.limits.sample_mb" in message
    assert peak < 9
    path.write_bytes(files(("x" * 5000 + ".png", PNG)))
    message, _ = refused(path)
    assert "a member's name has 5,004 characters" in message
    assert len(message) < 1000


def test_limits_can_be_raised_and_lowered(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(files(("a.png", PNG), ("a.txt", b"a"), ("a.bin", bytes(2 * MIB))))
    assert "more than 1 MiB" in refused(path, member_mb=1)[0]
    assert (
        len(
            list(
                open_source(str(path), SourceOptions(limits=LimitsConfig(member_mb=2, sample_mb=3)))
            )
        )
        == 1
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_row_without_end_is_not_read(tmp_path, suffix):
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / f"a.{suffix}"
    head = {"csv": "image,caption\n", "tsv": "image\tcaption\n", "jsonl": ""}[suffix]
    path.write_text(head + "x" * (20 * MIB))
    message, peak = refused(path)
    assert "belongs to a row of more than 1,048,576 bytes; raise data.limits.row_mb" in message
    assert peak < 8


def test_a_row_of_many_lines_is_bounded_too(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / "a.csv"
    path.write_text("image,caption\n" + 'a.png,"' + '","x\n' * 300_000)
    assert "belongs to a row" in refused(path)[0]


def test_an_image_path_that_no_system_takes_is_not_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,caption\n" + "x" * 5000 + ",a cat\n")
    assert "none of the first 1 images exists" in refused(path)[0]
    with pytest.raises(DataError, match="nothing matches"):
        open_source("x" * 5000 + ".csv")


def test_a_run_gives_the_limits_to_its_source(tmp_path):
    config = load_config("starter", ["data.limits.member_mb=7", "data.limits={ratio: 9}"])
    assert (config.data.limits.ratio, config.data.limits.member_mb) == (9, 64)
    with pytest.raises(ConfigError, match=r"unknown key 'data.limits.member'; did you mean"):
        load_config("starter", ["data.limits.member=7"])
    with pytest.raises(ConfigError, match=r"data.limits.ratio is 0"):
        load_config("starter", ["data.limits.ratio=0"])


def test_a_tar_of_class_folders_is_bounded_too(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(files(("cat/1.png", PNG), ("dog/2.png", PNG)))
    assert [one.label for one in class_images(path).images] == ["cat", "dog"]
    path.write_bytes(header("cat/2.png", b"0", 600 * MIB) + PNG)
    with pytest.raises(DataError, match=r"'cat/2.png' has 629,145,600 bytes, more than 64 MiB"):
        class_images(path)
