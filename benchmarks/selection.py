"""How much of a planted domain ``select`` recovers, what a student learns from it, and its speed.

The set is the starter kit's training split without half of a domain's concepts (groups of emoji).
The captions and pictures of these are the target; the other half, still in the set, should be
recovered. Students train on equally many pairs from the selection and from a random draw, with the
same inherited weights, and are evaluated on the domain in a style not used in training. Finished
runs are kept, so that the same command continues after an interruption.

    python benchmarks/selection.py --out benchmarks/results/selection.json

``--only planted`` or ``--only rate`` measures one part; ``rate`` is the processor time to select
from a million captions in generated shards.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from arms import at_end
from kept_runs import cached_run, check_settings, evaluated_at_end, runs_parser, teacher_hash
from tinyclip_edge import select
from tinyclip_edge.data import open_source
from tinyclip_edge.data.opening import open_named
from tinyclip_edge.data.selected_part import key_mark
from tinyclip_edge.data.selection_file import Choice, write_selection
from tinyclip_edge.starter import kit_path
from tinyclip_edge.starter.kit import KitSample, read_split

DOMAIN = ("animals-nature", "food-drink")
SHARD = 20_000  # pairs of a generated shard
ARMS = ("selected by texts", "selected by images", "random")


def write_pairs(path: Path, pairs: Iterable[tuple[str, bytes, Iterable[str]]]) -> Path:
    part = path.with_suffix(".part")
    with tarfile.open(part, "w") as shard:
        for key, image, captions in pairs:
            for ending, data in (("webp", image), ("txt", "\n".join(captions).encode())):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    part.rename(path)
    return path


def in_domain(sample: KitSample) -> bool:
    return sample.about.get("group") in DOMAIN


def prepare(work: Path) -> dict[str, Any]:
    """Write target, set and evaluation; return the planted keys and the sizes of set and target."""
    samples = list(read_split(kit_path(), "train"))
    concepts = sorted({sample.concept for sample in samples if in_domain(sample)})
    random.Random(0).shuffle(concepts)
    target = set(concepts[::2])
    planted = [s.key for s in samples if in_domain(s) and s.concept not in target]
    rest = [s for s in samples if s.concept not in target]
    images = work / "target"
    images.mkdir(parents=True, exist_ok=True)
    texts: list[str] = []
    for sample in samples:
        if in_domain(sample) and sample.concept in target:
            (images / f"{sample.key}.webp").write_bytes(sample.webp)
            texts += sample.captions
    (work / "target.txt").write_text("\n".join(texts) + "\n")
    if not (work / "set.tar").exists():
        write_pairs(work / "set.tar", ((s.key, s.webp, s.captions) for s in rest))
    if not (work / "val.tar").exists():
        held_out = [s for s in read_split(kit_path(), "test_style")
                    if in_domain(s) and s.about["canonical"]]  # fmt: skip
        write_pairs(work / "val.tar", ((s.key, s.webp, s.captions[:1]) for s in held_out))
    return {"planted": set(planted), "pairs": len(rest), "texts": len(texts)}


def recover(work: Path, about: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """Return precision and recall of selections as large as the planted part."""
    targets: dict[str, dict[str, Any]] = {
        "texts": {"target_texts": work / "target.txt"},
        "texts, words alone": {"target_texts": work / "target.txt", "words": 1},
        "images": {"target_images": work / "target"},
    }
    targets["both"] = targets["texts"] | targets["images"]
    planted, count = about["planted"], len(about["planted"])
    rows: dict[str, Any] = {"planted": count, "of": about["pairs"],
                            "chance": round(100 * count / about["pairs"], 2)}  # fmt: skip
    for name, target in targets.items():
        shares: dict[str, list[float]] = {"precision": [], "recall at twice as many": []}
        for seed in seeds:
            for factor, key in enumerate(shares, 1):
                report = select(
                    work / "set.tar", work / "planted.selection", count=factor * count, seed=seed,
                    feature_cache=work / "features", work=work / "read", **target,
                )  # fmt: skip
                keys = {pair.key for pair in open_source(report.out)}
                shares[key].append(round(100 * len(keys & planted) / count, 2))
        rows[name] = {key: {"mean": round(statistics.mean(v), 2), "seeds": v}
                      for key, v in shares.items()}  # fmt: skip
        print(name, rows[name], flush=True)
    return rows


def random_selection(work: Path, count: int, seed: int) -> Path:
    source, names = open_named(str(work / "set.tar"))
    keys = [pair.key for pair in source]
    rows = np.sort(np.random.default_rng(seed).permutation(len(keys))[:count])
    marks = np.frombuffer(b"".join(key_mark(keys[row]) for row in rows), "<u8")
    path = work / f"random-{seed}.selection"
    choice = Choice.of_part(source.parts[0], names[0], rows.astype(np.uint32), len(keys), marks)
    write_selection(path, {"pairs": count}, [choice])
    return path


def training_pairs(work: Path, arm: str, count: int, seed: int) -> Path:
    if arm == "random":
        return random_selection(work, count, seed)
    kind = arm.rpartition(" ")[2]
    target = {"texts": {"target_texts": work / "target.txt"},
              "images": {"target_images": work / "target"}}[kind]  # fmt: skip
    report = select(
        work / "set.tar", work / f"{kind}-{seed}.selection", count=count, seed=seed,
        feature_cache=work / "features", work=work / "read", **target,  # type: ignore[arg-type]
    )  # fmt: skip
    return Path(report.out)


def train(arguments: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    from tinyclip_edge.config import load_config

    work = arguments.work
    pairs = training_pairs(work, arm, arguments.pairs, seed)
    config = load_config(
        "starter",
        [
            f"data.train={pairs}",
            f"data.feature_cache={work / 'features'}",
            "data.batch_distinct=false",  # a domain has few concepts
            *evaluated_at_end(arguments.steps, seed, str(work / "val.tar")),
        ],
    )
    word = arm.replace(" ", "-")
    return cached_run(config, work / f"{word}-seed{seed}", {"arm": arm, "seed": seed})


def student_table(arguments: argparse.Namespace) -> dict[str, Any]:
    table: dict[str, Any] = {"steps": arguments.steps, "pairs": arguments.pairs}
    for arm in ARMS:
        records = [train(arguments, arm, seed) for seed in arguments.seeds]
        r1 = at_end(records, "r1")
        table["teacher"] = records[0]["teacher"]
        table["before"] = records[0]["curve"]["0"]
        table[arm] = {
            "r1": r1,
            "r1_mean": round(statistics.mean(r1), 2),
            "top1_100_mean": round(statistics.mean(at_end(records, "top1_100")), 2),
        }
    return table


def rate(work: Path, captions: int) -> dict[str, Any]:
    """Return the processor time of selecting from generated captions, in one process."""
    folder = work / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    words = [f"word{number}" for number in range(20_000)]
    draw = [words[int(len(words) ** source.random()) - 1] for _ in range(1 << 16)]  # Zipf's law
    first = folder / "00000.tar"
    if not first.exists():
        image = bytes(400)
        write_pairs(first, (
            (f"{number:08d}", image, [" ".join(source.choices(draw, k=source.randint(5, 15)))])
            for number in range(SHARD)
        ))  # fmt: skip
    shards = [first]
    for number in range(1, captions // SHARD):  # links to the same file
        shards.append(folder / f"{number:05d}.tar")
        if not shards[-1].exists():
            shards[-1].hardlink_to(first)
    began, wall = time.process_time(), time.perf_counter()
    report = select(
        [str(shard) for shard in shards], folder / "rate.selection", count=captions // 20,
        target_texts=[" ".join(source.choices(words[:500], k=8)) for _ in range(1000)],
    )  # fmt: skip
    seconds = time.process_time() - began
    return {
        "captions": report.of,
        "processor_seconds": round(seconds, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "captions_per_processor_second": round(report.of / seconds),
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/selection", steps=400)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs that a student trains on")
    parser.add_argument("--captions", type=int, default=1_000_000, help="for --only rate")
    parser.add_argument("--only", choices=("planted", "students", "rate"))
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    settings = {"steps": arguments.steps, "pairs": arguments.pairs, "teacher": teacher_hash()}
    check_settings(arguments.work, settings)
    parts = [arguments.only] if arguments.only else ["rate", "planted", "students"]
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    about = prepare(arguments.work) if parts != ["rate"] else {}
    for part in parts:
        if part == "rate":
            results[part] = rate(arguments.work, arguments.captions)
        elif part == "planted":
            results[part] = recover(arguments.work, about, arguments.seeds)
        else:
            results[part] = student_table(arguments)
        print(part, json.dumps(results[part]), flush=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
