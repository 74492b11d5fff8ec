"""Feature caches that are stopped, damaged, of other settings or of faulty pictures."""

from __future__ import annotations

import errno
import shutil

import pytest

from feature_cache_runs import STEPS, cached_parts
from pair_shards import toy_samples, write_shard
from tinyclip_edge.data import FeatureStore, feature_part
from tinyclip_edge.errors import ConfigError, DataError, InterruptedRun
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller
from toy_runs import KilledError

pytestmark = pytest.mark.usefixtures("no_report")


def test_a_fill_that_is_killed_goes_on(run, cache, tmp_path, monkeypatch):
    compute = FeatureCacheFiller._features
    requested_parts = []

    def second_dies(filler, pairs, *others, **options):
        requested_parts.append(pairs)
        if len(requested_parts) == 4:  # two for the estimate, then the parts
            raise KilledError
        return compute(filler, pairs, *others, **options)

    monkeypatch.setattr(FeatureCacheFiller, "_features", second_dies)
    with pytest.raises(KilledError):
        cache()
    folder = tmp_path / "cache"
    first = cached_parts(folder)
    assert len(first) == 1
    monkeypatch.setattr(FeatureCacheFiller, "_features", compute)
    result, messages = cache()
    assert (result.parts, result.computed, result.pictures) == (2, 1, 46)
    assert any("1 of 2 parts are missing" in line for line in messages)
    assert first.items() <= cached_parts(folder).items()
    resumed, _ = run("resumed", feature_cache=str(folder))
    uninterrupted, _ = run("whole", feature_cache=str(tmp_path / "other"))
    assert resumed == uninterrupted
    assert cached_parts(folder) == cached_parts(tmp_path / "other")


def test_ctrl_c_keeps_the_parts_that_are_there(cache, tmp_path, monkeypatch):
    save = FeatureStore.save

    def interrupted(store, part, features):
        save(store, part, features)
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureStore, "save", interrupted)
    with pytest.raises(InterruptedRun, match="repeat the command") as caught:
        cache()
    assert caught.value.exit_code == 130
    assert len(cached_parts(tmp_path / "cache")) == 1


def test_a_disk_too_small_is_reported_beforehand(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(
        DataError, match=r"needs about \d+ kB, but its disk has 1\.00 kB left; free some space"
    ):
        cache()
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_fills_up_leaves_the_complete_parts(run, cache, tmp_path, monkeypatch):
    save, calls = feature_part.save_file, []

    def full(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **options)

    monkeypatch.setattr(feature_part, "save_file", full)
    folder = tmp_path / "cache"
    with pytest.raises(DataError, match=r"No space left on device.*free some space and continue"):
        run("full", feature_cache=str(folder))
    assert len(cached_parts(folder)) == 1
    assert not (tmp_path / "full").exists()
    assert cache()[0].computed == 1


def test_a_cache_of_another_teacher_is_refused(run, cache, tmp_path, learnt_otherwise):
    cache()
    before = cached_parts(tmp_path / "cache")
    message = (
        r"made with other settings: teachers\[1\]\.weights .*"
        r"delete it, or set data\.feature_cache to"
    )
    with pytest.raises(DataError, match=message):
        run("other", feature_cache=str(tmp_path / "cache"), teacher=learnt_otherwise)
    with pytest.raises(DataError, match=r"views\.count \(was None, is 2\)"):
        run("views", feature_cache=str(tmp_path / "cache"), views=2)
    assert cached_parts(tmp_path / "cache") == before


def test_a_broken_part_is_computed_again(cache, tmp_path):
    cache()
    intact = cached_parts(tmp_path / "cache")
    name = min(intact)
    data = bytearray(intact[name])
    data[-9] ^= 4
    (tmp_path / "cache" / "parts" / name).write_bytes(bytes(data))
    result, messages = cache()
    assert result.computed == 1
    assert any(name in line and "has changed since it was written" in line for line in messages)
    assert cached_parts(tmp_path / "cache") == intact


def test_pictures_that_do_not_decode_have_no_row(cache, run, tmp_path):
    samples = toy_samples((32, 36, 40))
    samples[11][1]["png"] = b"nothing"
    train = str(write_shard(tmp_path / "a.tar", samples))
    result, _ = cache(train=train)
    assert (result.pictures, result.undecodable) == (143, 1)
    folder = str(tmp_path / "cache")
    assert len(run("memory", train=train, feature_cache=folder)[0]) == STEPS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"feature_cache": None}, "data.feature_cache is null; set it to the folder"),
        ({"cache_teacher": False}, "data.cache_teacher is false"),
    ],
)
def test_nothing_to_fill_is_refused(cache, data, message):
    with pytest.raises(ConfigError, match=message):
        cache(**data)
