"""The natural-image benchmark: every arm is a valid run, rates come from tuning, nothing hangs."""

from __future__ import annotations

import json
import time

import pytest

from tinyclip_edge.config import RunConfig

PLACES = {"teacher": "t", "train": "a.tar", "val": "b.tar", "precision": "fp32", "eval_every": "5"}


@pytest.fixture(scope="module")
def arms():
    import natural_arms

    return natural_arms


@pytest.fixture(scope="module")
def jobs():
    import natural_jobs

    return natural_jobs


def leave(arms, work, job, top1):
    path = arms.record_of(work, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"steps": 6, "curve": {"0": {"top1": 0}, "6": {"top1": top1}}}))


def parsed(arms, work, *more):
    return arms.command_line().parse_args(["--work", str(work), *more])


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_every_arm_is_a_valid_run_of_the_same_length(jobs, scale):
    from natural_profiles import PROFILES

    profile = PROFILES[scale]
    for job in (*jobs.all_jobs(), *jobs.still_jobs()):
        still = {"cache": "f"} if job.arm in jobs.STILL_ARMS else {}
        config = RunConfig.model_validate(jobs.run_config(job, profile, 1e-3, PLACES | still))
        times = 3 if job.arm == "recipe-long" else 1
        expected = profile.tuning_steps if job.tuning else times * profile.steps
        steps = sum(stage.steps for stage in config.stages) or config.optim.steps
        assert steps == expected, job.name
        assert (config.data.augment_crop is None) == bool(still)


def test_the_rate_is_the_best_of_all_that_were_tried(arms, jobs, tmp_path):
    tried = jobs.tuning_jobs("both")
    assert [job.lr for job in tried] == [1e-4, 2.5e-4, 5e-4]
    for job, top1 in zip(tried[:2], (30.0, 32.0), strict=True):
        leave(arms, tmp_path, job, top1)
    assert arms.tuned_rate(tmp_path, "both") is None
    leave(arms, tmp_path, tried[2], 31.0)
    assert arms.tuned_rate(tmp_path, "both") == 2.5e-4


def test_an_arm_alone_brings_the_tuning_of_its_rate(arms, jobs):
    selected = arms.selected_jobs(still=False, only=["masks"])
    assert [job.name for job in selected] == [
        "both-lr0.0001-tuning",
        "both-lr0.00025-tuning",
        "both-lr0.0005-tuning",
        "masks-seed0",
    ]


def test_a_failed_tuning_run_ends_what_needs_it(arms, jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(arms.Worker, "_warm_up", lambda _: None)
    monkeypatch.setattr(arms, "cache_pairs", lambda: None)
    monkeypatch.setattr(arms, "disable_report", lambda: None)
    monkeypatch.setattr("kept_runs.cached_run", lambda *_: 1 / 0)
    worker = arms.Worker(parsed(arms, tmp_path, "--only", "masks"), time.time() + 3600)
    worker.go()
    assert {path.stem for path in (tmp_path / "arms").glob("*.failed")} == {
        job.name for job in jobs.tuning_jobs("both")
    }


def test_a_folder_keeps_runs_of_one_kind(arms, tmp_path):
    arms.check_settings(tmp_path, {"steps": 300, "precision": "bf16"})
    arms.check_settings(tmp_path, {"steps": 300, "precision": "bf16"})
    with pytest.raises(SystemExit, match="has runs with steps 300; use the same"):
        arms.check_settings(tmp_path, {"steps": 1200, "precision": "bf16"})


def test_means_and_steps_to_what_scratch_reached(tmp_path):
    import natural_claims

    def record(arm, seed, values):
        steps = (0, 100, 200)
        curve = {str(n): {"top1": v, "top5": 2 * v} for n, v in zip(steps, values, strict=True)}
        about = {"arm": arm, "seed": seed, "lr": 1e-3, "steps": 200, "seconds": 9.0}
        about |= {"teacher": {"top1": 20.0}, "encoder_parameters": 5, "curve": curve}
        (tmp_path / "arms" / f"{arm}-seed{seed}.json").write_text(json.dumps(about))

    (tmp_path / "arms").mkdir()
    (tmp_path / "teacher.json").write_text('{"steps": 7}')
    record("scratch", 0, (0, 4, 8))
    record("scratch", 1, (0, 6, 10))
    record("both", 0, (3, 15, 18))
    summary = natural_claims.summarise(tmp_path)
    assert summary["teacher"] == {"top1": 20.0, "steps": 7}
    assert summary["arms"]["scratch"]["top1_mean"] == 9.0
    # 9 lies half way between 3 at the start and 15 after 100 steps
    assert summary["arms"]["both"]["steps_to_scratch_end"] == [50.0]
