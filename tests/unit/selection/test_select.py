"""``tinyclip_edge.select``: what is chosen, whatever reads the set and after any kill."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from killing import killed
from pair_shards import encoded, write_shard
from tinyclip_edge import select
from tinyclip_edge.aside import locked
from tinyclip_edge.data import open_source
from tinyclip_edge.errors import ConfigError, DataError, TinyClipError
from tinyclip_edge.selection import course, unit_file

ANIMALS = ("cat", "dog", "horse", "frog", "owl", "duck")
THINGS = ("lamp", "chair", "bolt", "flag", "coin", "desk", "fork", "sock")
PICTURE = encoded(Image.new("RGB", (9, 9), "red"))


def samples(count, share=0.2, seed=0):
    """Pairs of which a share is about animals; their keys say so."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        animal = rng.random() < share
        noun = rng.choice(ANIMALS if animal else THINGS)
        words = [
            rng.choice(("small", "old", "green")),
            noun,
            *rng.choice(("near", "on", "with"), 1),
        ]
        words.append(rng.choice(("grass", "hay", "water") if animal else ("wood", "steel", "felt")))
        key = f"{'animal' if animal else 'thing'}-{seed}-{number:03}"
        rows.append((key, {"png": PICTURE, "txt": " ".join(words).encode()}))
    return rows


TARGET = ["a cat in the grass", "an old dog near water", "owl and duck on hay", "horse with frog"]


@pytest.fixture
def shards(tmp_path):
    return [write_shard(tmp_path / "data" / f"{n}.tar", samples(60, seed=n)) for n in range(3)]


@pytest.fixture
def planted(shards):
    return {pair.key for pair in open_source(list(map(str, shards))) if "animal" in pair.key}


def chosen(path):
    return [pair.key for pair in open_source(str(path))]


def test_a_planted_domain_is_recovered(shards, planted, tmp_path):
    count = len(planted)
    report = select(shards, tmp_path / "a.selection", count=count, target_texts=TARGET)
    assert (report.pairs, report.of, report.shards_read) == (count, 180, 3)
    assert report.log_weight > report.log_weight_of_all + 3
    found = set(chosen(report.out))
    precision, recall = len(found & planted) / len(found), len(found & planted) / len(planted)
    assert len(found) == count and precision > 0.9 and recall > 0.9
    assert not (tmp_path / "a.selection.work").exists()


def test_the_same_selection_from_processes_and_a_cluster(shards, tmp_path):
    from distributed import LocalCluster

    def content(name, **options):
        report = select(
            shards, tmp_path / f"{name}.selection", count=50, target_texts=TARGET, **options
        )
        return (tmp_path / report.out).read_bytes()

    first = content("one")
    assert content("two", workers=2) == first and content("other", seed=1) != first
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        assert content("three", cluster=cluster.scheduler_address) == first


def run(shards, out):
    select(shards, out, count=40, target_texts=TARGET, write_shards=out.parent / "copies")


def test_kills_change_nothing(shards, tmp_path):
    run(shards, tmp_path / "whole" / "a.selection")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").rglob("*.*")
                if path.is_file() and path.name != ".lock"}  # fmt: skip
    out, at, before = tmp_path / "killed" / "a.selection", 0, 0
    while killed(run, shards, out, inside=tmp_path, at=at):
        if out.exists():  # whole, or absent
            assert out.read_bytes() == expected["a.selection"]
            before += 1
        at += 5
    assert at > 20 and before
    after = {path.name: path.read_bytes() for path in out.parent.rglob("*.*")
             if path.is_file() and path.name != ".lock"}  # fmt: skip
    assert after == expected


def test_what_was_read_is_read_once(shards, tmp_path):
    work = tmp_path / "work"
    select(shards, tmp_path / "a.selection", count=9, target_texts=TARGET, work=work)
    write_shard(shards[1], samples(60, seed=7))
    report = select(shards, tmp_path / "b.selection", count=9, target_texts=["sock"], work=work)
    assert report.shards_read == 1 and len(list(work.glob("*.npz"))) == 4
    with locked(work), pytest.raises(TinyClipError, match="work is in use by process"):
        select(shards, tmp_path / "b.selection", count=9, target_texts=["sock"], work=work)
    for path in work.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"npz is damaged; delete it, and the same command reads"):
        select(shards, tmp_path / "c.selection", count=9, target_texts=["sock"], work=work)


def test_copies_are_the_chosen_pairs(shards, tmp_path):
    out, copies = tmp_path / "a.selection", tmp_path / "copies"
    report = select(shards, out, count=20, target_texts=TARGET, write_shards=copies)
    assert report.shards == 1
    pairs, written = list(open_source(str(out))), list(open_source(str(copies / "*.tar")))
    assert [(p.image, p.captions, p.concept) for p in written] == [
        (p.image, p.captions, p.concept) for p in pairs
    ]
    assert [p.meta["original_key"] for p in written] == [p.key for p in pairs]
    with pytest.raises(DataError, match="copies has shards of another selection; choose a new"):
        select(shards, out, count=21, target_texts=TARGET, write_shards=copies)


def test_a_selection_of_a_selection(shards, tmp_path):
    first = select(shards, tmp_path / "a.selection", count=60, target_texts=TARGET).out
    second = select(first, tmp_path / "b.selection", count=6, target_texts=["duck"]).out
    assert len(chosen(second)) == 6 and set(chosen(second)) < set(chosen(first))
    lines = [json.loads(line) for line in Path(second).read_text().splitlines()]
    assert {line["source"] for line in lines[1:-1]} <= {f"data/{number}.tar" for number in range(3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a selection needs a target: --target-texts FILE, --target-images FOLDER, or both"),
        ({"target_texts": []}, "target_texts has no text"),
        ({"target_texts": "empty.txt"}, "target texts file .*empty.txt is empty; write one per"),
        ({"target_texts": ["!?"]}, "the texts of the target contain no word"),
        ({"target_texts": TARGET, "count": 181}, "--count 181 exceeds the 180 usable pairs of"),
        ({"target_texts": TARGET, "count": 0}, "count must be 1 or more, not 0"),
        ({"target_texts": TARGET, "drop_duplicates": 1.5}, "--drop-duplicates 1.5 is not a cosine"),
        ({"target_texts": TARGET, "out": "a.tar"}, "a.tar must be a file whose name ends in .sel"),
        ({"target_texts": TARGET, "workers": 2, "cluster": "tcp://a:1"}, "--workers is for this"),
        ({"target_images": "none"}, "none"),
    ],
)
def test_mistakes_are_one_line(shards, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    settings = {"out": tmp_path / "a.selection", "count": 5, **options}
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        select(shards, **settings)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("*.selection"))


def test_shards_without_captions(tmp_path):
    bare = [(f"{number:02}", {"png": PICTURE}) for number in range(20)]
    path = write_shard(tmp_path / "bare.tar", bare)
    with pytest.raises(DataError, match=r"20 of 20 samples cannot be used .*'00' has no caption"):
        select(path, tmp_path / "a.selection", count=5, target_texts=TARGET)


def test_a_shard_that_cannot_be_read_costs_itself(shards, tmp_path):
    shards[1].write_bytes(b"junk" * 200)
    with pytest.raises(DataError, match=r"1 of 3 shards were not read: .*1\.tar .*; the others"):
        select(shards, tmp_path / "a.selection", count=5, target_texts=TARGET)
    write_shard(shards[1], samples(60, seed=1))
    report = select(shards, tmp_path / "a.selection", count=5, target_texts=TARGET)
    assert report.shards_read == 1


def test_a_shard_that_changes_meanwhile(shards, tmp_path, monkeypatch):
    fill = course.HashedSet.fill

    def fill_and_change(*arguments):
        fill(*arguments)
        write_shard(shards[2], samples(50, seed=5))

    monkeypatch.setattr(course.HashedSet, "fill", fill_and_change)
    with pytest.raises(DataError, match=r"2\.tar changed while it was read; select again"):
        select(shards, tmp_path / "a.selection", count=5, target_texts=TARGET)
    assert not (tmp_path / "a.selection").exists()


def test_a_full_disk(shards, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unit_file, "write_member", full)
    with pytest.raises(DataError, match=r"cannot write .*npz: No space left on device"):
        select(shards, tmp_path / "a.selection", count=5, target_texts=TARGET)
    assert not list(tmp_path.rglob("*.npz*")) and not (tmp_path / "a.selection").exists()
    shutil.rmtree(tmp_path / "a.selection.work")
