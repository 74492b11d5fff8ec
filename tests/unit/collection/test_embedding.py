"""``embed_shards``: the rows of shards, tables and folders, whatever embeds them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
from colour_model import names
from PIL import Image

from killing import killed
from pair_shards import encoded, toy_samples, write_shard
from tinyclip_edge import EdgeCLIP, embed_shards
from tinyclip_edge.aside import locked
from tinyclip_edge.collection import embed_engines
from tinyclip_edge.errors import (
    BundleError,
    ConfigError,
    DataError,
    MissingExtraError,
    TinyClipError,
)


def rows(folder):
    """All rows, by name of the file without its hash."""
    return {
        path.name.split("-")[0]: pq.read_table(path).to_pylist()
        for path in sorted(folder.glob("*.parquet"))
    }


def test_rows_are_what_the_model_says(clip, shards, shared_tiny_bundle, tmp_path):
    report = embed_shards(clip, shards, tmp_path / "out", dtype="float32")
    assert (report.shards, report.pictures, report.captions) == (3, 48, 96)
    assert (report.embedded, report.whole, report.unusable) == (48, 0, 0)
    written = rows(tmp_path / "out")
    assert list(written) == ["0", "1", "2"]
    samples = toy_samples()
    for row, (key, files) in zip(
        (r for part in written.values() for r in part), samples, strict=True
    ):
        pixels = clip.preprocess(Image.open(io.BytesIO(files["png"])))
        np.testing.assert_allclose(
            row["vector"], shared_tiny_bundle.expected_image(pixels), atol=1e-5
        )
        captions = files["txt"].decode().split("\n")[:2]
        assert row["key"] == key and row["captions"] == captions
        for text, vector in zip(captions, row["caption_vectors"], strict=True):
            expected = shared_tiny_bundle.expected_text(clip.token_ids(text))
            np.testing.assert_allclose(vector, expected, atol=1e-5)
        assert row["metadata"] == '{"family": 32}'


def test_the_same_rows_from_processes_and_a_cluster(clip, shards, tmp_path):
    from distributed import LocalCluster

    embed_shards(clip, shards, tmp_path / "one", dtype="float32")
    embed_shards(clip, shards, tmp_path / "two", dtype="float32", workers=2)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        report = embed_shards(clip, shards, tmp_path / "three", dtype="float32", dask=address)
    assert address.startswith("tcp://") and report.pictures == 48
    first = rows(tmp_path / "one")
    assert first == rows(tmp_path / "two") == rows(tmp_path / "three")
    assert names(tmp_path / "one") == names(tmp_path / "two") == names(tmp_path / "three")


def test_whole_files_are_left_and_changed_shards_replaced(clip, shards, tmp_path):
    out = tmp_path / "out"
    embed_shards(clip, shards[:2], out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    write_shard(shards[1], toy_samples()[30:40])
    report = embed_shards(clip, shards, out)
    assert (report.whole, report.embedded, report.pictures) == (1, 26, 42)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(after) == 3 and len(before.items() & after.items()) == 1
    assert [len(part) for part in rows(out).values()] == [16, 10, 16]
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = [tmp_path / "moved" / shard.name for shard in shards]
    assert embed_shards(clip, moved, out).embedded == 0


def test_another_models_files_are_refused(clip, shards, tmp_path, shared_tiny_bundle):
    embed_shards(clip, shards, tmp_path / "out")
    other = EdgeCLIP.load(shared_tiny_bundle.folder, precision="fp32")
    with pytest.raises(BundleError, match=r"parquet was made by model .*int8, but this is .*fp32"):
        embed_shards(other, shards, tmp_path / "out")
    with pytest.raises(DataError, match=r"has vectors of float16, not int8; .* --dtype float16"):
        embed_shards(clip, shards, tmp_path / "out", dtype="int8")
    (tmp_path / "out" / "x.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"x\.parquet has no embeddings of tinyclip-edge"):
        embed_shards(clip, shards, tmp_path / "out")


def test_a_second_writer_is_refused(clip, shards, tmp_path):
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(TinyClipError, match="out is in use by process"):
        embed_shards(clip, shards, tmp_path / "out")


def test_pictures_without_captions(clip, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("red", "lime", "blue"):
        Image.new("RGB", (9, 9), name).save(folder / f"{name}.png")
    (folder / "red.txt").write_text("a red square\n")
    (tmp_path / "list.csv").write_text("image\nphotos/red.png\nphotos/blue.png\n")
    bare = [(f"{number}", {"png": encoded(Image.new("RGB", (9, 9), "red"))}) for number in range(3)]
    shard = write_shard(tmp_path / "bare.tar", bare)
    report = embed_shards(clip, [folder, tmp_path / "list.csv", shard], tmp_path / "out")
    assert (report.shards, report.pictures, report.captions) == (3, 8, 1)
    by_name = rows(tmp_path / "out")
    assert {row["key"]: row["captions"] for row in by_name["photos"]} == {
        "blue.png": [], "lime.png": [], "red.png": ["a red square"],
    }  # fmt: skip
    assert [row["key"] for row in by_name["list.csv"]] == ["photos/red.png", "photos/blue.png"]


def test_a_package_that_is_missing_is_named(clip, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.collection.embedding.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyclip-edge\[embed\]'"):
        embed_shards(clip, shards, tmp_path / "out")


def faulty(shard, count):
    """A shard of 200 pictures, the first of which cannot be decoded."""
    picture = encoded(Image.new("RGB", (9, 9), "red"))
    samples = [
        (f"{number:03d}", {"png": b"junk" if number < count else picture, "txt": b"a cat"})
        for number in range(200)
    ]
    return write_shard(shard, samples)


def test_one_per_cent_may_be_faulty(clip, tmp_path):
    report = embed_shards(clip, faulty(tmp_path / "a.tar", 2), tmp_path / "out")
    assert (report.pictures, report.unusable) == (198, 2)
    assert "skipped 2 samples that cannot be used: 000 of" in report.notes[0]
    for _ in range(2):  # its file is whole, and the answer stays the same
        with pytest.raises(DataError, match=r"3 of 200 samples cannot be used \(at most 1%"):
            embed_shards(clip, faulty(tmp_path / "b.tar", 3), tmp_path / "many")


def test_a_name_that_is_not_utf8_costs_only_itself(clip, tmp_path):
    """Parquet holds text; of a file in another encoding it has no row."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(100):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"{number}.png")
    shutil.copy(folder / "0.png", os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    report = embed_shards(clip, folder, tmp_path / "out")
    assert (report.pictures, report.unusable) == (100, 1)
    assert report.notes[0].startswith(
        r"skipped 1 sample that cannot be used: key 'caf\udce9.png' is not UTF-8; rename the file"
    )


def test_a_broken_shard_costs_only_itself(clip, shards, tmp_path):
    shards[1].write_bytes(b"junk" * 400)
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"1 of 3 shards were not embedded: shard .*1\.tar "):
            embed_shards(clip, shards, tmp_path / f"out{workers}", workers=workers)
        assert list(rows(tmp_path / f"out{workers}")) == ["0", "2"]
    write_shard(shards[1], toy_samples()[16:32])
    assert embed_shards(clip, shards, tmp_path / "out1").embedded == 16


def test_two_shards_alike_are_refused(clip, shards, tmp_path):
    (tmp_path / "copy").mkdir()
    copy = shutil.copy(shards[0], tmp_path / "copy")
    with pytest.raises(DataError, match=r"have the same name, size and beginning"):
        embed_shards(clip, [shards[0], copy], tmp_path / "out")


@pytest.mark.slow
def test_kills_leave_whole_files_only(clip, shards, tmp_path):
    out = tmp_path / "out"
    kills = 0
    out.mkdir()
    for at in range(100):
        if not killed(embed_shards, clip, shards, out, inside=out, at=at, fresh=True):
            break
        kills += 1
        for path in out.glob("*.parquet"):
            assert pq.read_table(path).num_rows == 16
    embed_shards(clip, shards, tmp_path / "once")
    assert kills > 3 and rows(out) == rows(tmp_path / "once")
    assert all(name.endswith(".parquet") or name == ".lock" for name in names(out))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_leaves_whole_files_only(clip, shards, tmp_path, workers):
    def interrupt(done, total):
        if done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_shards(clip, shards, tmp_path / "out", workers=workers, progress=interrupt)
    assert all(n.endswith(".parquet") or n == ".lock" for n in names(tmp_path / "out"))
    report = embed_shards(clip, shards, tmp_path / "out", workers=workers)
    assert report.pictures == 48 and report.whole >= 1


def test_a_killed_process_costs_one_shard(clip, shards, tmp_path, monkeypatch):
    started = subprocess.Popen
    processes = []

    def popen(*args, **options):
        process = started(*args, **options)
        processes.append(process)
        if process is processes[0]:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return process

    monkeypatch.setattr(embed_engines.subprocess, "Popen", popen)
    with pytest.raises(DataError, match=r"1 of 3 shards .*a process ended with code -9 while"):
        embed_shards(clip, shards, tmp_path / "out", workers=2)
    assert len(rows(tmp_path / "out")) == 2


def test_progress_has_a_total_after_the_first_shard(clip, shards, tmp_path):
    calls = []
    embed_shards(clip, shards, tmp_path / "out", progress=lambda *call: calls.append(call))
    assert calls[0] == (0, None) and calls[-1] == (48, 48)
    assert calls[2][0] == 16 and 40 <= calls[2][1] <= 56  # estimated by bytes
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_wrong_arguments_are_one_line(clip, shards, tmp_path):
    with pytest.raises(ConfigError, match=r"dtype 'float61'; did you mean 'float16'"):
        embed_shards(clip, shards, tmp_path / "out", dtype="float61")
    with pytest.raises(ConfigError, match="workers must be 1 or more"):
        embed_shards(clip, shards, tmp_path / "out", workers=0)
    with pytest.raises(DataError, match="nothing matches"):
        embed_shards(clip, tmp_path / "none.tar", tmp_path / "out")
    with pytest.raises(DataError, match="cannot write"):
        embed_shards(clip, shards, shards[0] / "out")


def test_no_cluster_answers(clip, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.collection.embed_engines.CONNECT_SECONDS", 0.2)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(ConfigError, match=f"no Dask cluster answers at {address}"):
            embed_shards(clip, shards, tmp_path / "out", dask=address)
