"""Tailored classifiers of natural images: 20 classes of Tiny-ImageNet as a folder without labels.

A teacher learns all classes (benchmarks/natural_teacher.py, for a share of ``--minutes``). From it,
a general student with about half of its encoder parameters learns all classes, with captions. Then
`tailor` receives the training pictures of the first classes, which are neighbours in WordNet, as
numbered files, with the names of these classes and a budget in megabytes. Classifiers are measured
on the validation pictures of these classes, which are not used for training or tuning. Finished
parts are kept, so that the same command continues after an interruption, even within a tailoring,
but not within the teacher's training.

    python benchmarks/natural_tailored.py --data tiny-imagenet-200 --scale cpu --minutes 65 \\
        --out benchmarks/results/natural-tailored.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from kept_runs import cached_run, check_settings, finished_student
from label_classifiers import Labelled, measure_classifier, measured_student
from machine import machine_facts
from natural_arms import accuracies
from natural_data import REPORT, TEMPLATES, class_names, pictures, write_data
from natural_jobs import Job, run_config
from natural_profiles import PROFILES

TEACHER_SHARE = 0.7  # of the minutes; the rest is for all tailorings, without exports
GENERAL, GENERAL_LR = "recipe", 5e-4  # half of the encoders, affinity and feature loss
CLASSES = 20
TRAIN, VAL = "train-00.tar", "val.tar"  # of the data set


def domain_names(data: Path, scale: str) -> dict[str, str]:
    """Return the first name of each class folder of the domain: at most half of the scale's."""
    count = min(CLASSES, PROFILES[scale].classes // 2)
    return {folder: names[0] for folder, names in class_names(data, count).items()}


def write_folder(data: Path, scale: str, folder: Path, labels: Path) -> int:
    """Write the domain's training pictures, numbered, once, and its labels; count the pictures."""
    names = domain_names(data, scale)
    if not folder.exists():
        part = folder.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        found = pictures(data / TRAIN, list(names), PROFILES[scale].most)
        for number, (_, _, jpeg) in enumerate(found):
            (part / f"{number:05}.jpg").write_bytes(jpeg)
        part.rename(folder)
    labels.write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")
    return len(list(folder.iterdir()))


def held_out(data: Path, scale: str) -> Labelled:
    """Return the domain's validation pictures with their labels."""
    names = domain_names(data, scale)
    place = {folder: number for number, folder in enumerate(names)}
    found = list(pictures(data / VAL, list(names), PROFILES[scale].most))
    return Labelled(
        [jpeg for _, _, jpeg in found],
        [place[folder] for folder, _, _ in found],
        tuple(names.values()),
        TEMPLATES,
    )


def train_teacher(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train the teacher in a separate process, unless its record exists; return the record."""
    record = arguments.work / "teacher.json"
    if not record.exists():
        seconds = 60 * arguments.minutes * TEACHER_SHARE
        subprocess.run(
            [
                sys.executable, str(Path(__file__).with_name("natural_teacher.py")),
                "--data", str(arguments.data), "--work", str(arguments.work),
                "--scale", arguments.scale, "--most-seconds", str(seconds),
            ],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)},
        )  # fmt: skip
    stored: dict[str, Any] = json.loads(record.read_text())
    return stored


def general_student(arguments: argparse.Namespace, labelled: Labelled) -> dict[str, Any]:
    """Distil, export and measure a student of all classes."""
    from tinyclip_edge.config import RunConfig

    work, profile = arguments.work, PROFILES[arguments.scale]
    shards = work / "data"
    write_data(arguments.data, shards, classes=profile.classes, limit=profile.most)
    places = {
        "teacher": str(work / "teacher"),
        "train": str(shards / "train.tar"),
        "val": str(shards / f"{REPORT}.tar"),
        "precision": "fp32",
        "eval_every": "0",
        "cache": str(work / "features"),
    }
    profile = replace(profile, steps=arguments.general_steps)
    values = run_config(Job(GENERAL, 0), profile, GENERAL_LR, places)
    config = RunConfig.model_validate(values)
    record = cached_run(config, work / "general", {"arm": "general"}, accuracies)
    student = finished_student(work, "general")
    measured = measured_student(student, work / "bundles" / "general", labelled, places["val"])
    at_end = record["curve"][str(record["steps"])]
    return {"steps": record["steps"], "all_classes_top1": at_end["top1"], **measured}


def tailored(
    arguments: argparse.Namespace, megabytes: float, folder: Path, labels: Path, labelled: Labelled
) -> dict[str, Any]:
    """Tailor a classifier to ``megabytes`` and measure it, or read the stored record."""
    import tinyclip_edge

    name = f"tailored-{megabytes:g}mb"
    work, bundle = arguments.work / name, arguments.work / "bundles" / name
    record = arguments.work / f"{name}.json"
    if not record.exists():
        report = tinyclip_edge.tailor(
            folder,
            labels,
            bundle,
            templates=TEMPLATES,
            teacher=str(arguments.work / "teacher"),
            max_mb=megabytes,
            minutes=arguments.minutes * (1 - TEACHER_SHARE) / len(arguments.megabytes),
            candidates=arguments.candidates,
            work=work,
            resume=(work / "request.json").exists(),
            callback=lambda text: print(text, flush=True),
        )
        winner = next(each for each in report.entries if each.name == report.winner)
        measured = measure_classifier(bundle, labelled)
        measured |= {"shape": report.winner, "steps": winner.steps}
        measured["teachers_labels"] = winner.top1
        record.write_text(json.dumps(measured))
    stored: dict[str, Any] = json.loads(record.read_text())
    return stored


def teacher_row(teacher: Path, labelled: Labelled) -> dict[str, Any]:
    """Return accuracy, and bytes and milliseconds of the image tower in fp32."""
    from tinyclip_edge.models import load_clip
    from tinyclip_edge.tailoring.measure import teacher_cost

    cost = teacher_cost(load_clip(str(teacher)))
    return {
        "bytes": round(1e6 * cost.mb),
        "ms": round(cost.ms, 3),
        "top1": labelled.top1(str(teacher)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Tiny-ImageNet")
    parser.add_argument("--scale", choices=PROFILES, default="smoke")
    parser.add_argument(
        "--minutes", type=float, default=65, help="for training the teacher and for tailoring"
    )
    parser.add_argument("--general-steps", type=int, default=300)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--candidates", type=int, default=6, help="candidates per tailoring")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/natural-tailored"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    arguments.work = arguments.work.resolve()
    settings = {
        "scale": arguments.scale, "minutes": arguments.minutes,
        "general_steps": arguments.general_steps, "candidates": arguments.candidates,
    }  # fmt: skip
    check_settings(arguments.work, settings)
    folder, labels = arguments.work / "pictures", arguments.work / "labels.txt"
    count = write_folder(arguments.data, arguments.scale, folder, labels)
    labelled = held_out(arguments.data, arguments.scale)
    results: dict[str, Any] = {
        "machine": machine_facts(),
        **settings,
        "labels": list(labelled.labels),
        "pictures": count,
        "held_out": len(labelled.images),
        "training_of_teacher": train_teacher(arguments),
    }
    models = results["models"] = {"teacher": teacher_row(arguments.work / "teacher", labelled)}

    def add(name: str, row: dict[str, Any]) -> None:
        share = row["top1"] / models["teacher"]["top1"]
        models[name] = {**row, "share_of_teacher": round(100 * share, 1)}
        print(name, models[name], flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")

    for megabytes in arguments.megabytes:
        row = tailored(arguments, megabytes, folder, labels, labelled)
        add(f"tailored, {megabytes:g} MB", row)
    add("general", general_student(arguments, labelled))


if __name__ == "__main__":
    main()
