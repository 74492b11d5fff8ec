"""Students of the natural-image teacher, arm by arm: same pairs, steps, crops and evaluation.

Learning rates are tuned on half of the validation pictures, in short runs with a separate seed; all
other runs are measured on the other half. Several processes share a device: each takes the next
free run in the order of natural_jobs. Finished runs are not repeated, so another call can continue
after a deadline.

    python benchmarks/natural_arms.py --scale gpu --work runs/natural --workers 5
    python benchmarks/natural_arms.py --scale gpu --still --steps 300 --work runs/still
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept_runs import check_settings
from natural_data import CHOOSE, REPORT
from natural_jobs import (
    ARMS,
    STILL_ARMS,
    Job,
    all_jobs,
    rate_arm,
    run_config,
    steps_of,
    still_jobs,
    tuning_jobs,
)
from natural_profiles import PROFILES, Profile

if TYPE_CHECKING:
    from tinyclip_edge.data import PairMemory, PairSource, PixelCodec
    from tinyclip_edge.train.tasks.validation import Validation

TIME_MARGIN = 1.15  # factor on the expected time of a run


def accuracies(metrics: dict[str, float]) -> dict[str, float]:
    """Return zero-shot top-1 and top-5, and text-to-image recall, in percent."""
    return {
        "top1": round(100 * metrics["i2t_r1"], 3),
        "top5": round(100 * metrics["i2t_r5"], 3),
        "t2i_r1": round(100 * metrics["t2i_r1"], 3),
    }


def record_of(work: Path, job: Job) -> Path:
    return work / "arms" / f"{job.name}.json"


def tuned_rate(work: Path, arm: str) -> float | None:
    """Return the rate with the best top-1 of an arm's tuning runs; None while one is missing."""
    scores = {}
    for job in tuning_jobs(arm):
        path = record_of(work, job)
        if not path.exists():
            return None
        record = json.loads(path.read_text())
        scores[job.lr] = record["curve"][str(record["steps"])]["top1"]
    return max(scores, key=lambda lr: scores[lr])


def selected_jobs(*, still: bool, only: list[str] | None) -> list[Job]:
    """Return the jobs of a call; with ``only``, those of these arms and their tuning runs."""
    if only is None:
        return still_jobs() if still else all_jobs()
    jobs = [job for job in still_jobs() + all_jobs() if job.arm in only]
    rate_arms = {rate_arm(arm) for arm in only} - set(only)
    return [job for arm in sorted(rate_arms) for job in tuning_jobs(arm)] + jobs


def cache_pairs() -> None:
    """Decode each data set and measure the teacher once per process instead of at every run."""
    from tinyclip_edge.data import PairMemory
    from tinyclip_edge.train.tasks.teacher import Teacher

    load, measure = PairMemory.load, Teacher.measure
    pairs_by_source: dict[tuple[str, Any], PairMemory] = {}
    measured: dict[int, dict[str, float]] = {}

    def load_once(source: PairSource, codec: PixelCodec, **options: Any) -> PairMemory:  # noqa: ANN401
        key = (source.name, options.get("limit"))
        if key not in pairs_by_source:
            pairs_by_source[key] = load(source, codec, **options)
        return pairs_by_source[key]

    def measure_once(self: Teacher, validation: Validation) -> dict[str, float]:
        key = id(validation.pairs)  # unique, as cached pairs are never freed
        if key not in measured:
            measured[key] = measure(self, validation)
        return measured[key]

    PairMemory.load = staticmethod(load_once)  # type: ignore[method-assign]
    Teacher.measure = measure_once  # type: ignore[method-assign]


def disable_report() -> None:
    """Skip the HTML report, which would take longer than some of the runs."""
    from tinyclip_edge import report

    report.write_final_report = lambda *_, **__: None


class Worker:
    """Runs jobs until none is left or none fits the remaining time."""

    def __init__(self, arguments: argparse.Namespace, deadline: float) -> None:
        self.work, self.profile = arguments.work, profile_of(arguments)
        self.still, self.threads = arguments.still, arguments.threads
        self.eval_every = eval_every_of(arguments)
        self.jobs = selected_jobs(still=arguments.still, only=arguments.only)
        self.precision = arguments.precision
        self.deadline = deadline
        self.step_seconds = 0.0

    def go(self) -> None:
        cache_pairs()
        disable_report()
        self._warm_up()
        while time.time() < self.deadline:
            waiting = False
            for job in self.jobs:
                if record_of(self.work, job).exists() or self._lock(job).exists():
                    continue
                lr = job.lr or tuned_rate(self.work, rate_arm(job.arm))
                if lr is None:
                    waiting = waiting or not self._untuned(rate_arm(job.arm))
                    continue
                if self._fits(job) and self._acquire(job):
                    self._run(job, lr)
                    waiting = True
                    break
            if not waiting:
                return
            time.sleep(0.2)

    def _warm_up(self) -> None:
        """Import and decode while the data is written and the teacher is trained."""
        import torch

        from natural_teacher import new_clip
        from tinyclip_edge.data import PairMemory, open_source
        from tinyclip_edge.train.tasks.encoders import pixel_codec

        torch.set_num_threads(self.threads)
        codec = pixel_codec(new_clip(self.profile))
        self._wait_for(self.work / "data" / "done")
        for name, limit in (("train", None), (CHOOSE, 5000), (REPORT, 5000)):
            source = open_source(str(self.work / "data" / f"{name}.tar"))
            PairMemory.load(source, codec, workers=3, limit=limit)
        self._wait_for(self.work / "teacher.json")

    def _wait_for(self, path: Path) -> None:
        while not path.exists() and time.time() < self.deadline:
            time.sleep(0.3)

    def _fits(self, job: Job) -> bool:
        expected = TIME_MARGIN * self.step_seconds * steps_of(job, self.profile)
        return time.time() + expected < self.deadline

    def _untuned(self, arm: str) -> bool:
        """Return whether a tuning run of this arm failed, so that its rate stays unknown."""
        return any(self._failed(job).exists() for job in tuning_jobs(arm))

    def _failed(self, job: Job) -> Path:
        return record_of(self.work, job).with_suffix(".failed")

    def _lock(self, job: Job) -> Path:
        return record_of(self.work, job).with_suffix(".lock")

    def _acquire(self, job: Job) -> bool:
        try:
            self._lock(job).mkdir(parents=True)
        except FileExistsError:
            return False
        return True

    def _run(self, job: Job, lr: float) -> None:
        from kept_runs import cached_run
        from tinyclip_edge.config import RunConfig

        half = CHOOSE if job.tuning else REPORT
        places = {
            "teacher": str(self.work / "teacher"),
            "train": str(self.work / "data" / "train.tar"),
            "val": str(self.work / "data" / f"{half}.tar"),
            "precision": self.precision,
            "eval_every": str(self.eval_every),
        }
        if self.still:
            places["cache"] = str(self.work / "features")
        config = RunConfig.model_validate(run_config(job, self.profile, lr, places))
        about = {"arm": job.arm, "seed": job.seed, "lr": lr, "measured_on": half}
        folder = record_of(self.work, job).with_suffix("")
        began = time.monotonic()
        try:
            cached_run(config, folder, about, accuracies)
        except Exception:  # other arms continue; the lock stays, so the job is not retried
            traceback.print_exc()
            self._failed(job).mkdir()
            return
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        self.step_seconds = (time.monotonic() - began) / steps_of(job, self.profile)


def profile_of(arguments: argparse.Namespace) -> Profile:
    profile = PROFILES[arguments.scale]
    if not arguments.steps:
        return profile
    short = arguments.tuning_steps or arguments.steps // 2
    return replace(profile, steps=arguments.steps, tuning_steps=short)


def eval_every_of(arguments: argparse.Namespace) -> int:
    parts = 4 if arguments.still else 12
    return int(arguments.eval_every or profile_of(arguments).steps // parts)


def work(arguments: argparse.Namespace, deadline: float) -> None:
    Worker(arguments, deadline).go()


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/natural"))
    parser.add_argument("--scale", choices=PROFILES, default="smoke")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the device")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--only", nargs="+", choices=ARMS | STILL_ARMS, help="only these arms")
    parser.add_argument(
        "--still", action="store_true", help="no augmentation; other arms by default, see --only"
    )
    parser.add_argument("--steps", type=int, help="steps of an arm, instead of the scale's")
    parser.add_argument("--tuning-steps", type=int, help="steps of a tuning run; half of --steps")
    parser.add_argument("--eval-every", type=int, help="steps between evaluations")
    parser.add_argument("--threads", type=int, default=2, help="threads per process")
    parser.add_argument(
        "--seconds", type=float, default=1e6, help="start no run that would take longer"
    )
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    arguments.still |= bool(arguments.only) and set(arguments.only) <= STILL_ARMS.keys()
    profile = profile_of(arguments)
    check_settings(
        arguments.work,
        {
            "scale": arguments.scale,
            "still": arguments.still,
            "precision": arguments.precision,
            "steps": profile.steps,
            "tuning_steps": profile.tuning_steps,
            "eval_every": eval_every_of(arguments),
        },
    )
    arms = arguments.work / "arms"
    for marker in (*arms.glob("*.lock"), *arms.glob("*.failed")):  # left by a call that was ended
        marker.rmdir()
    deadline = time.time() + arguments.seconds
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(arguments, deadline)) for _ in range(arguments.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, deadline - time.time()) + 5)
        worker.kill()


if __name__ == "__main__":
    main()
