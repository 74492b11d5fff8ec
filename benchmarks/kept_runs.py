"""Cache of a benchmark's runs, so that a second call repeats only the missing ones."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.train.tasks.validation import Validation


def runs_parser(
    description: str | None,
    work: str,
    *,
    steps: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
) -> argparse.ArgumentParser:
    """Return the options of a benchmark of runs: seeds, threads, folders, and any ``steps``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(work))
    parser.add_argument("--out", type=Path, required=True)
    return parser


def check_settings(work: Path, settings: dict[str, Any]) -> None:
    """Store the settings shared by the runs of a folder; exit if it has runs with others."""
    path = work / "settings.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1) + "\n")
    stored = json.loads(path.read_text())
    if stored != settings:
        differing = {key for key in settings.keys() | stored.keys()
                     if settings.get(key) != stored.get(key)}  # fmt: skip
        values = ", ".join(f"{key} {stored.get(key)}" for key in sorted(differing))
        raise SystemExit(f"{work} has runs with {values}; use the same or another --work")


def cached_run(
    config: RunConfig,
    folder: Path,
    about: dict[str, Any],
    summarise: Callable[[dict[str, float]], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Distil into ``folder``, or read the record that an earlier call wrote beside it.

    Returns ``about`` with the run's steps, seconds, encoder parameters and evaluations by step;
    ``summarise`` (default mean_recalls) turns the metrics of an evaluation into figures.
    """
    from tinyclip_edge.models import count_parameters, load_clip
    from tinyclip_edge.train import distill

    summarise = summarise or mean_recalls
    record_file = folder.with_name(folder.name + ".json")
    if record_file.exists():
        stored: dict[str, Any] = json.loads(record_file.read_text())
        return stored
    number = 1
    while folder.exists():  # an interrupted run: leave it and use a new folder
        number += 1
        folder = folder.with_name(f"{folder.name.split('~')[0]}~{number}")
    result = distill(config, folder)
    record = {
        **about,
        "steps": result.steps,
        "seconds": result.seconds,
        "encoder_parameters": count_parameters(load_clip(str(folder)).model).encoders,
        "teacher": summarise(result.teacher),
        "curve": {str(step): summarise(m) for step, m in result.evaluations.items()},
        "last": result.evaluations[result.steps],
    }
    part = record_file.with_suffix(".part")
    part.write_text(json.dumps(record))
    part.replace(record_file)
    print(*about.values(), record["curve"][str(result.steps)], flush=True)
    return record


def evaluated_at_end(steps: int, seed: int, val: str) -> list[str]:
    """Return the overrides of a run that is evaluated at its start and end, and saved once."""
    return [
        f"optim.steps={steps}",
        f"seed={seed}",
        f"data.val={val}",
        "data.val_limit=5000",
        "run.eval_every=0",
        "run.save_every=0",
    ]


def mean_recalls(metrics: dict[str, float]) -> dict[str, float]:
    """Return mean recalls of both directions in percent."""
    return {
        f"r{k}": round(50 * (metrics[f"t2i_r{k}"] + metrics[f"i2t_r{k}"]), 3) for k in (1, 5)
    } | {"t2i_r1": round(100 * metrics["t2i_r1"], 3), "top1_100": 100 * metrics["zero_shot_100"]}


def teacher_hash(model: str | None = None) -> str:
    """Return a short hash of a teacher's weights, by default the recipe's teacher."""
    from tinyclip_edge.config import load_config
    from tinyclip_edge.models import load_clip, weights_hash

    teacher = load_config("starter", []).teacher
    clip = load_clip(teacher.model, teacher.pretrained) if model is None else load_clip(model)
    return weights_hash(clip.model)[:8]


def twemoji_shard(folder: Path) -> Path:
    """Write the pictures of the held-out style Twemoji, one per concept, as a separate shard."""

    def canonical(about: dict[str, Any]) -> bool:
        return bool(about["kind"] == "emoji" and about["canonical"])

    return kit_shard(folder / "twemoji.tar", "test_style", canonical)[0]


def kit_shard(
    path: Path, split: str, wanted: Callable[[dict[str, Any]], bool]
) -> tuple[Path, list[str]]:
    """Write the pictures of a split with their names as a shard, unless it exists; return both.

    ``wanted`` selects pictures by their metadata.
    """
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    samples = [sample for sample in read_split(kit_path(), split) if wanted(sample.about)]
    names = [sample.captions[0] for sample in samples]
    if path.exists():
        return path, names
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path.with_suffix(".part"), "w") as shard:
        for sample in samples:
            for ending, data in (("webp", sample.webp), ("txt", sample.captions[0].encode())):
                member = tarfile.TarInfo(f"{sample.key}.{ending}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    path.with_suffix(".part").rename(path)
    return path, names


def finished_student(work: Path, run: str) -> Path:
    """Return the student's folder of the last attempt at a run."""
    folders = [work / run / "student", *work.glob(f"{run}~*/student")]
    return max(filter(Path.exists, folders), key=lambda each: each.stat().st_mtime)


def validated(student: Path, val: str) -> tuple[Validation, tuple[Tensor, Tensor]]:
    """Return the pairs, and the student's features ``[N, D]`` of their pictures and names."""
    from tinyclip_edge.data import PairMemory, open_source
    from tinyclip_edge.models import load_clip
    from tinyclip_edge.train.tasks.encoders import PairEncoder, pixel_codec
    from tinyclip_edge.train.tasks.validation import Validation

    clip = load_clip(str(student))
    codec = pixel_codec(clip)
    validation = Validation(PairMemory.load(open_source(val), codec, limit=5000), codec)
    return validation, validation.features(PairEncoder(clip).eval(), clip)


def recalls_of(student: Path, val: str, record: Path) -> dict[str, float]:
    """Return the mean recalls of a student on pairs, or read the record of an earlier call."""
    if record.exists():
        stored: dict[str, float] = json.loads(record.read_text())
        return stored
    validation, features = validated(student, val)
    recalls = mean_recalls(validation.accuracies(*features))
    record.write_text(json.dumps(recalls))
    return recalls
