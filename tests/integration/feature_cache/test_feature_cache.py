"""Runs from a feature cache, filled by them or by another command, with the same losses."""

from __future__ import annotations

import re
import shutil

import pytest

from feature_cache_runs import STEPS, cached_parts
from tinyclip_edge.train import distill
from tinyclip_edge.train.caching import cache_features
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller
from tinyclip_edge.train.feature_cache.progress import ProgressLines
from tinyclip_edge.train.tasks.teacher import Teacher
from toy_runs import KilledError, Watcher, kill

pytestmark = pytest.mark.usefixtures("no_report")


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


def test_runs_with_other_settings_share_a_folder_that_is_named_by_settings(run, tmp_path):
    folder = str(tmp_path / "cache" / "{settings}")
    for views in (2, 0, 2):
        losses, _ = run("run", feature_cache=folder, views=views)
        assert list(losses) == list(range(1, STEPS + 1))
        shutil.rmtree(tmp_path / "run")
    features = sorted((tmp_path / "cache").iterdir())
    assert [len(cached_parts(each)) for each in features] == [2, 2]
    assert all(re.fullmatch("[0-9a-f]{12}", each.name) for each in features)


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
    assert cached_parts(tmp_path / "shared") == cached_parts(tmp_path / "cache")


def test_views_change_what_is_learnt(run):
    assert run("centre")[0] != pytest.approx(run("views", views=2)[0], rel=1e-3)


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


def test_a_run_shorter_than_an_epoch_asks_for_what_it_needs(make, tmp_path):
    watcher, cache = Watcher(), tmp_path / "cache"
    config = make(data={"feature_cache": str(cache)}, optim={"steps": STEPS - 1})
    distill(config, tmp_path / "run", observer=watcher)
    assert not cache.exists()
    assert "run shorter than an epoch, so its feature cache is not filled" in watcher.messages
