"""Runs from a feature cache: filled once, in pieces or by another command, with the same losses."""

from __future__ import annotations

import errno
import shutil

import pytest

from pair_shards import toy_samples, write_shard
from tinyclip_edge.data import FeatureStore, feature_part
from tinyclip_edge.errors import ConfigError, DataError, InterruptedRun
from tinyclip_edge.train import distill
from tinyclip_edge.train.caching import cache_features
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller
from tinyclip_edge.train.feature_cache.progress import ProgressLines
from tinyclip_edge.train.tasks.teacher import Teacher
from toy_runs import KilledError, Watcher, kill, losses

pytestmark = pytest.mark.usefixtures("no_report")

STEPS = 6  # an epoch of 96 pairs, 16 each


@pytest.fixture
def run(make, tmp_path):
    """Distil for some steps with data options; return the losses by step and what was told."""

    def distil(name, *, resume=False, watcher=None, teacher=None, **data):
        observed = watcher or Watcher()
        config = make(
            data={"val": None, **data},
            optim={"steps": STEPS},
            run={"save_every": 2},
            **({} if teacher is None else {"teacher": teacher}),
        )
        distill(config, tmp_path / name, resume=resume, observer=observed)
        return losses(tmp_path / name), observed.messages

    return distil


@pytest.fixture
def cache(make, tmp_path):
    def fill(**data):
        watcher = Watcher()
        config = make(data={"feature_cache": str(tmp_path / "cache"), **data})
        return cache_features(config, ProgressLines(watcher)), watcher.messages

    return fill


@pytest.fixture
def silent(monkeypatch):
    """From now on the teacher may not be asked."""

    def ask(*_):
        raise AssertionError("the teacher was asked again")

    def forbid():
        monkeypatch.setattr(Teacher, "encode_images", ask)
        monkeypatch.setattr(Teacher, "encode_texts", ask)

    return forbid


def parts(folder):
    return {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}


@pytest.mark.parametrize(
    ("views", "memory_gb"),
    [
        pytest.param(0, 4.0, marks=pytest.mark.slow),
        pytest.param(3, 4.0, marks=pytest.mark.slow),
        pytest.param(0, 0.0, marks=pytest.mark.slow),
        (3, 0.0),
    ],
    ids=["0-in memory", "3-in memory", "0-streamed", "3-streamed"],
)
def test_cached_losses_are_those_of_a_live_teacher(
    run, tmp_path, monkeypatch, silent, memory_gb, views
):
    data = {"memory_gb": memory_gb, "views": views, "crop_scale": (0.5, 1.0)}
    live, _ = run("live", cache_teacher=False, **data)
    folder = str(tmp_path / "cache")
    fill = FeatureCacheFiller.fill

    def fill_and_forbid(*args, **options):
        result = fill(*args, **options)
        silent()
        return result

    monkeypatch.setattr(FeatureCacheFiller, "fill", fill_and_forbid)
    cached, messages = run("cached", feature_cache=folder, **data)
    assert list(live) == list(range(1, STEPS + 1))
    assert cached == pytest.approx(live, rel=1e-3)
    assert any("2 of 2 parts are missing, about " in line for line in messages)
    monkeypatch.setenv("CACHES", str(tmp_path))
    again, messages = run("again", feature_cache="$CACHES/cache", **data)
    assert again == pytest.approx(cached, rel=1e-5)
    assert not any("parts are missing" in line for line in messages)


def test_machines_of_a_cluster_write_the_same_files(make, cache, tmp_path):
    from distributed import LocalCluster

    local, _ = cache(views=2)
    config = make(data={"feature_cache": str(tmp_path / "shared"), "views": 2})
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        address, watcher = cluster.scheduler_address, ProgressLines(Watcher())
        result = cache_features(config, watcher, cluster=address)
        again = cache_features(config, watcher, cluster=address)
    counts = [
        (each.computed, each.pictures, each.captions, each.nbytes) for each in (local, result)
    ]
    assert counts[0] == counts[1] and again.computed == 0
    assert parts(tmp_path / "shared") == parts(tmp_path / "cache")


def test_views_change_what_is_learnt(run):
    assert run("centre")[0] != pytest.approx(run("views", views=2)[0], rel=1e-3)


def test_a_fill_that_is_killed_goes_on(run, cache, tmp_path, monkeypatch):
    compute = FeatureCacheFiller._features
    requested_parts = []

    def second_dies(filler, pairs, progress):
        requested_parts.append(pairs)
        if len(requested_parts) == 4:  # two for the estimate, then the parts
            raise KilledError
        return compute(filler, pairs, progress)

    monkeypatch.setattr(FeatureCacheFiller, "_features", second_dies)
    with pytest.raises(KilledError):
        cache()
    folder = tmp_path / "cache"
    first = parts(folder)
    assert len(first) == 1
    monkeypatch.setattr(FeatureCacheFiller, "_features", compute)
    result, messages = cache()
    assert (result.parts, result.computed, result.pictures) == (2, 1, 46)
    assert any("1 of 2 parts are missing" in line for line in messages)
    assert first.items() <= parts(folder).items()
    resumed, _ = run("resumed", feature_cache=str(folder))
    uninterrupted, _ = run("whole", feature_cache=str(tmp_path / "other"))
    assert resumed == uninterrupted
    assert parts(folder) == parts(tmp_path / "other")


def test_ctrl_c_keeps_the_parts_that_are_there(cache, tmp_path, monkeypatch):
    save = FeatureStore.save

    def interrupted(store, part, features):
        save(store, part, features)
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureStore, "save", interrupted)
    with pytest.raises(InterruptedRun, match="repeat the command") as caught:
        cache()
    assert caught.value.exit_code == 130
    assert len(parts(tmp_path / "cache")) == 1


def test_the_estimate_is_near(cache, shards):
    options = {"views": 2, "train": [str(shards / "train-1.tar"), str(shards / "val.tar")]}
    result, _ = cache(**options)
    # 46 pictures of 23 concepts and 48 of as many, two captions a concept
    assert (result.computed, result.pictures, result.undecodable) == (2, 94, 0)
    assert result.captions == 2 * (23 + 48)
    # rows of 64 halves for two views and every caption; marks of 16 bytes, seeds of 8
    assert result.nbytes == (2 * 94 + 142) * 128 + 94 * (16 + 2 * 8) + 142 * 16
    assert result.estimate.nbytes == pytest.approx(result.nbytes, rel=0.2)
    assert result.as_dict()["estimate"]["bytes"] == result.estimate.nbytes
    again, _ = cache(**options)
    assert (again.computed, again.nbytes, again.estimate) == (0, 0, None)


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
    assert len(parts(folder)) == 1
    assert not (tmp_path / "full").exists()
    assert cache()[0].computed == 1


def test_a_cache_of_another_teacher_is_refused(run, cache, tmp_path, learnt_otherwise):
    cache()
    before = parts(tmp_path / "cache")
    message = (
        r"made with other settings: teachers\[1\]\.weights .*"
        r"delete it, or set data\.feature_cache to"
    )
    with pytest.raises(DataError, match=message):
        run("other", feature_cache=str(tmp_path / "cache"), teacher=learnt_otherwise)
    with pytest.raises(DataError, match=r"views\.count \(was None, is 2\)"):
        run("views", feature_cache=str(tmp_path / "cache"), views=2)
    assert parts(tmp_path / "cache") == before


def test_a_broken_part_is_computed_again(cache, tmp_path):
    cache()
    intact = parts(tmp_path / "cache")
    name = min(intact)
    data = bytearray(intact[name])
    data[-9] ^= 4
    (tmp_path / "cache" / "parts" / name).write_bytes(bytes(data))
    result, messages = cache()
    assert result.computed == 1
    assert any(name in line and "has changed since it was written" in line for line in messages)
    assert parts(tmp_path / "cache") == intact


def test_what_the_cache_lacks_a_stream_asks_for(run, cache, make, tmp_path, shards, monkeypatch):
    live, _ = run("live", cache_teacher=False, memory_gb=0.0)
    cache(train=str(shards / "train-0.tar.gz"))
    monkeypatch.setattr(
        FeatureCacheFiller, "fill", lambda *_, **__: None
    )  # another process of it is late
    computed = []
    encode = Teacher.encode_images
    monkeypatch.setattr(
        Teacher, "encode_images", lambda self, p: computed.append(len(p)) or encode(self, p)
    )
    half, _ = run("half", feature_cache=str(tmp_path / "cache"), memory_gb=0.0)
    assert half == pytest.approx(live, rel=1e-3)
    assert 0 < sum(computed) < 16 * STEPS


@pytest.mark.slow
def test_a_run_resumes_without_its_cache(run, tmp_path):
    options = {"feature_cache": str(tmp_path / "cache"), "views": 2}
    uninterrupted, _ = run("whole", **options)
    with pytest.raises(KilledError):
        run("cut", watcher=Watcher(3, kill), **options)
    shutil.rmtree(tmp_path / "cache")
    resumed, _ = run("cut", resume=True, views=2)
    assert resumed == pytest.approx(uninterrupted, abs=1e-6)


@pytest.mark.slow
def test_several_teachers_share_one_cache(run, cache, tmp_path, learnt_otherwise, make, silent):
    teacher = {**make().teacher.model_dump(), "ensemble": [{**learnt_otherwise, "weight": 2.0}]}
    live, _ = run("live", cache_teacher=False, teacher=teacher)
    cached, _ = run("cached", feature_cache=str(tmp_path / "cache"), teacher=teacher)
    assert cached == pytest.approx(live, rel=1e-3)
    assert live != pytest.approx(run("alone", cache_teacher=False)[0], rel=1e-3)
    silent()
    streamed = {"feature_cache": str(tmp_path / "cache"), "memory_gb": 0.0}
    assert len(run("streamed", teacher=teacher, **streamed)[0]) == STEPS


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


def test_a_run_shorter_than_an_epoch_asks_for_what_it_needs(make, tmp_path):
    watcher, cache = Watcher(), tmp_path / "cache"
    config = make(data={"feature_cache": str(cache)}, optim={"steps": STEPS - 1})
    distill(config, tmp_path / "run", observer=watcher)
    assert not cache.exists()
    assert "run shorter than an epoch, so its feature cache is not filled" in watcher.messages
