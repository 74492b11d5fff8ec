"""Arms of a benchmark on the starter kit: the same steps for each, compared seed by seed."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from kept_runs import cached_run, check_settings, evaluated_at_end, teacher_hash, twemoji_shard

Record = dict[str, Any]  # of a run, as cached_run returns it
Row = dict[str, Any]  # of a table

# The rate of `starter` suits its heavy feature term. With affinity alone, half of it is better:
# 61.3 against 57.8 % recall@1 on Twemoji, one seed.
WITHOUT_FEATURES = ("loss.feature=0", "optim.lr=1e-3")


def prepare(arguments: argparse.Namespace, settings: dict[str, Any]) -> str:
    """Set the number of threads and store the runs' settings; return the Twemoji shard."""
    import torch

    torch.set_num_threads(arguments.threads)
    check_settings(arguments.work, {**settings, "teacher": teacher_hash()})
    return str(twemoji_shard(arguments.work))


def folder_name(arm: str, seed: int) -> str:
    """Return the name of a run's folder."""
    return f"{'-'.join(arm.replace(',', '').split())}-seed{seed}"


def arm_run(
    arguments: argparse.Namespace, arm: str, seed: int, overrides: list[str], val: str
) -> Record:
    """Train ``starter`` with an arm's overrides, or read its record."""
    from tinyclip_edge.config import load_config

    features = f"data.feature_cache={arguments.work / 'features' / '{settings}'}"
    config = load_config(
        "starter", [features, *overrides, *evaluated_at_end(arguments.steps, seed, val)]
    )
    folder = arguments.work / folder_name(arm, seed)
    return cached_run(config, folder, {"arm": arm, "seed": seed})


def measure(
    arguments: argparse.Namespace,
    arms: Iterable[str],
    train: Callable[[str, int], Record],
    row: Callable[[list[Record], list[Record]], Row],
    *,
    results: dict[str, Any],
    rows: dict[str, Any],
) -> None:
    """Fill ``rows``, a part of ``results``, and write all results after each arm.

    ``train`` takes an arm and a seed, ``row`` the records of an arm and those of the first arm.
    """
    baseline: list[Record] = []
    for arm in arms:
        records = [train(arm, seed) for seed in arguments.seeds]
        baseline = baseline or records
        rows[arm] = row(records, baseline)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def at_end(records: list[Record], figure: str) -> list[float]:
    """Return a figure of each run after its last step."""
    return [record["curve"][str(record["steps"])][figure] for record in records]


def gains(records: list[Record], baseline: list[Record]) -> Row:
    """Return an arm's final recalls, and its gains over the first arm with the same seed."""
    last, before = at_end(records, "r1"), at_end(baseline, "r1")
    differences = [end - start for end, start in zip(last, before, strict=True)]
    return {
        "seeds": [record["seed"] for record in records],
        "r1": last,
        "r1_mean": round(statistics.mean(last), 2),
        "gain": [round(difference, 2) for difference in differences],
        "gain_mean": round(statistics.mean(differences), 2),
        "seconds_mean": round(statistics.mean(record["seconds"] for record in records), 1),
    }
