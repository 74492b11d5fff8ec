"""The paper's maths in a plain loop against ``tinyclip-edge distill``, at equal time.

Both train ``starter`` from the same inherited weights on the starter kit. tinyclip-edge runs first.
The plain loop (``plain_loop.py``: float32, live teacher, affinity alone) then has as many seconds
as that took, including teacher features and evaluations, with the learning-rate schedule of
affinity alone over as many steps as fit. Recall is measured on Twemoji, a style not used in
training. Finished runs are kept, so that the same command continues after an interruption.

    python benchmarks/equal_time.py --out benchmarks/results/equal-time.json
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from arms import WITHOUT_FEATURES, Record, at_end, prepare
from kept_runs import cached_run, evaluated_at_end, recalls_of, runs_parser
from plain_loop import PlainLoop

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.data import Batch

AFFINITY = [*WITHOUT_FEATURES, "loss.contrastive=0"]
ARMS = {"as shipped": [], "affinity alone": AFFINITY}
PLAIN = "plain loop"
TRIAL = 10  # steps of the plain loop that are timed


def configured(arguments: argparse.Namespace, arm: str, seed: int) -> RunConfig:
    """Return a run that computes the teacher's features itself."""
    from tinyclip_edge.config import load_config

    return load_config(
        "starter",
        [
            *ARMS[arm],
            "data.feature_cache=null",
            *evaluated_at_end(arguments.steps, seed, arguments.val),
        ],
    )


def seconds_of_step(loop: PlainLoop, batches: Iterator[Batch]) -> float:
    """Return the mean time of a step, after one step that is not counted."""
    loop.step(next(batches))
    began = time.perf_counter()
    for _ in range(TRIAL):
        loop.step(next(batches))
    return (time.perf_counter() - began) / TRIAL


def train_plain(arguments: argparse.Namespace, seed: int, seconds: float) -> Record:
    """Train in the plain loop for ``seconds``, or read the record of an earlier call."""
    record = arguments.work / f"plain-seed{seed}.json"
    if record.exists():
        stored: Record = json.loads(record.read_text())
        return stored

    from tinyclip_edge.data import PairMemory, open_source
    from tinyclip_edge.models import load_clip
    from tinyclip_edge.models.folder import save_local_dir
    from tinyclip_edge.train.optimizer import lr_at
    from tinyclip_edge.train.stages.student import start_student
    from tinyclip_edge.train.tasks.encoders import pixel_codec

    config = configured(arguments, "affinity alone", seed)
    teacher = load_clip(config.teacher.model)
    codec = pixel_codec(teacher)
    pairs = PairMemory.load(open_source(str(config.data.train)), codec)
    student = start_student(config, teacher).clip
    batches = pairs.batches(0, config.optim.batch_size, seed=seed)
    trial = PlainLoop(teacher, copy.deepcopy(student), codec, config.optim, device="cpu")
    steps = max(1, int(seconds / seconds_of_step(trial, batches)))
    optim = config.optim.model_copy(update={"steps": steps})
    loop = PlainLoop(teacher, student, codec, optim, device="cpu")
    batches = pairs.batches(0, optim.batch_size, seed=seed)
    began, step = time.perf_counter(), 0
    while step < steps and time.perf_counter() - began < seconds:
        loop.step(next(batches), lr=lr_at(step, optim))
        step += 1
    took = time.perf_counter() - began
    folder = arguments.work / f"plain-seed{seed}"
    student.model.eval()
    save_local_dir(folder, student)
    recalls = recalls_of(folder, arguments.val, arguments.work / f"plain-seed{seed}.recalls.json")
    result = {"arm": PLAIN, "seed": seed, "steps": step, "seconds": took,
              "curve": {str(step): recalls}}  # fmt: skip
    record.write_text(json.dumps(result))
    return result


def row(records: list[Record]) -> dict[str, Any]:
    return {
        "seeds": [record["seed"] for record in records],
        "steps": [record["steps"] for record in records],
        "seconds": [round(record["seconds"], 1) for record in records],
        "r1": at_end(records, "r1"),
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/equal-time", steps=400)
    arguments = parser.parse_args()
    arguments.val = prepare(arguments, {"steps": arguments.steps})
    runs: dict[str, list[Record]] = {name: [] for name in (*ARMS, PLAIN)}
    for seed in arguments.seeds:
        for arm in ARMS:
            folder = arguments.work / f"{arm.replace(' ', '-')}-seed{seed}"
            config = configured(arguments, arm, seed)
            runs[arm].append(cached_run(config, folder, {"arm": arm, "seed": seed}))
        seconds = runs["as shipped"][-1]["seconds"]
        runs[PLAIN].append(train_plain(arguments, seed, seconds))
        print(PLAIN, seed, runs[PLAIN][-1]["curve"], flush=True)
        results = {"measured_on": "Twemoji", "batch": 128,
                   "arms": {name: row(records) for name, records in runs.items()}}  # fmt: skip
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
