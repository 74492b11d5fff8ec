"""A run takes up its stream where the checkpoint stands, and a checkpoint keeps that place."""

import hashlib
import threading

import pytest

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig
from tinyclip_edge.data.stream_groups import StreamGroup
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.train import distill
from toy_runs import KilledError, Watcher, kill, losses, make_version_2

pytestmark = pytest.mark.usefixtures("no_report")

STEPS = 14


@pytest.fixture
def make(tmp_path, toy_teacher_folder):
    def config(samples=None, groups=1, batch=16):
        samples = toy_samples((32, 40)) if samples is None else samples
        for number in range(3):  # 96 pairs, 6 batches of 16 in an epoch
            write_shard(tmp_path / f"s-{number}.tar", samples[number::3])
        return RunConfig.model_validate(
            {
                "teacher": {"model": str(toy_teacher_folder)},
                "student": {"model": {"vision_cfg": {"width": 64, "layers": 1},
                                      "text_cfg": {"width": 64, "heads": 1, "layers": 1}}},
                "data": {"train": str(tmp_path / "s-*.tar"), "memory_gb": 0.0,
                         "stream_groups": groups},
                "optim": {"steps": STEPS, "batch_size": batch, "lr": 1e-3},
                "run": {"device": "cpu", "save_every": 4, "log_every": 1},
            }
        )  # fmt: skip

    return config


@pytest.mark.parametrize(
    ("killed", "groups", "batch", "form"),
    [
        pytest.param(5, 1, 16, 3, marks=pytest.mark.slow),  # step 4, in the first epoch
        pytest.param(11, 1, 16, 3, marks=pytest.mark.slow),  # step 8, in the second
        pytest.param(11, 2, 16, 3, marks=pytest.mark.slow),
        # 48 concepts in batches of 44: pairs wait for another one
        pytest.param(7, 1, 44, 3, marks=pytest.mark.slow),
        (11, 1, 16, 2),  # a checkpoint of version 2, without a place in the stream
    ],
)
def test_a_killed_run_of_a_stream_goes_on(make, tmp_path, monkeypatch, killed, groups, batch, form):
    config, uninterrupted, cut = (
        make(groups=groups, batch=batch),
        tmp_path / "whole",
        tmp_path / "cut",
    )
    distill(config, uninterrupted)
    with pytest.raises(KilledError):
        distill(config, cut, observer=Watcher(killed, kill))
    if form == 2:
        names = hashlib.sha256(b"s-0.tar\ns-1.tar\ns-2.tar").hexdigest()
        for path in (cut / "checkpoints").iterdir():
            make_version_2(path, data=f"stream: {names}", stream=False)
    batches, draw = [], StreamGroup.draw
    monkeypatch.setattr(
        StreamGroup, "draw", lambda group, **options: batches.append(1) or draw(group, **options)
    )
    distill(config, cut, resume=True)
    expected, resumed = losses(uninterrupted), losses(cut)
    assert list(resumed) == list(range(1, STEPS + 1))
    assert all(resumed[step] == pytest.approx(expected[step], abs=1e-6) for step in expected)
    start = killed // 4 * 4
    remaining = STEPS - start + 2  # two are being decoded at the end
    assert len(batches) == groups * (remaining if form == 3 else remaining + start)
    assert [thread.name for thread in threading.enumerate() if thread.name == "prefetch"] == []


def test_other_stream_groups_are_another_order(make, tmp_path):
    with pytest.raises(KilledError):
        distill(make(groups=2), tmp_path / "run", observer=Watcher(5, kill))
    with pytest.raises(ConfigError, match=r"must not change: data\.stream_groups \(was 2, is 1\)"):
        distill(make(groups=1), tmp_path / "run", resume=True)


def test_stream_groups_that_do_not_fit_are_refused_before_the_first_step(make, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.stream_groups 4 exceeds the 3 parts"):
        distill(make(groups=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cut_shard_is_reported_once(make, tmp_path):
    config = make([(f"{n}-{key}", files) for n in range(7) for key, files in toy_samples()])
    path = tmp_path / "s-1.tar"
    path.write_bytes(path.read_bytes()[: 50 * 6 * 512 + 700])  # 3 members of 2 blocks a sample
    watcher = Watcher()
    distill(config.model_copy(update={"optim": config.optim.model_copy(update={"steps": 40})}),
            tmp_path / "run", observer=watcher)  # fmt: skip
    messages = [line for line in watcher.messages if "truncated" in line]
    assert messages == [
        f"shard {path} is truncated after 50 samples; the incomplete one is skipped"
    ]
