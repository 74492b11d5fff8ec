"""Does a student tailored to one's own pictures pay? One domain, half of the general one's bytes.

The general student is that of ``starter``, trained on the whole kit with captions. A tailored one
sees the pictures of one domain of the kit (animals and nature; food and drink) and unpaired names,
and is trained as by `tinyclip-edge tailor`: same split, shapes, successive halving (over steps
instead of minutes, so that the machine does not matter), configuration and export. The shape that
wins with at most half of the bytes is then trained from the beginning with every seed: unchanged,
with importance measured on the whole kit, and with pairs. All arms take equally many steps. int8
classifiers of the domain's names are measured on its Twemoji, a style not used in training.
Finished runs are kept, so that the same command continues after an interruption.

    python benchmarks/tailored.py --out benchmarks/results/tailored.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arms import Record, Row, folder_name, measure, prepare
from domain_importance import BASELINE as GENERAL_IMPORTANCE
from domain_importance import DOMAINS, importance, write_domain
from kept_runs import cached_run, evaluated_at_end, finished_student, runs_parser
from label_classifiers import Labelled, measured_student
from natural_arms import accuracies
from tailored_search import search, tailoring_of

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.tailoring.shapes import ImageShape

GENERAL = "general"
TAILORED, WITHOUT, PAIRED = "tailored", "tailored, general importance", "tailored, pairs"
SAME_BYTES = "tailored, same bytes"
ARMS = (TAILORED, WITHOUT, PAIRED, SAME_BYTES)
SHARE = 0.5  # of the general student's bytes
TEACHER = "starter-teacher"
NO_LIMIT = 1e6  # milliseconds: other programs may run at the same time


@dataclass(frozen=True, slots=True)
class Domain:
    """A user's domain, with the pictures on which classifiers are measured."""

    name: str
    files: dict[str, Path]
    pictures: Path
    labelled: Labelled


def open_domain(work: Path, name: str) -> Domain:
    """Write a domain's pictures as files without captions; read its Twemoji."""
    from tinyclip_edge.data import open_source
    from tinyclip_edge.evaluation import evaluation_set

    files = write_domain(work, name)
    pictures = work / f"{name}-pictures"
    if not pictures.exists():  # rewritten pictures would count as changed
        part_folder = pictures.with_suffix(".part")
        part_folder.mkdir(exist_ok=True)
        for part in open_source(str(files["train"])).parts:
            for pair in part:
                assert isinstance(pair.image, bytes)
                (part_folder / f"{pair.key}.webp").write_bytes(pair.image)
        part_folder.rename(pictures)
    labels = tuple(files["names"].read_text(encoding="utf-8").splitlines())
    held_out = evaluation_set(str(files["val"]))
    targets = [labels.index(text) for text in held_out.texts]
    return Domain(name, files, pictures, Labelled(list(held_out.images), targets, labels))


def write_pairs(domain: Domain, table: Path, out: Path) -> int:
    """Write the pictures of a table with their names; return the number of names."""
    from tinyclip_edge.data import open_source

    parts = open_source(str(domain.files["train"])).parts
    names = {pair.key: pair.captions[0] for part in parts for pair in part}
    paths = [Path(json.loads(line)["image"]) for line in table.read_text().splitlines()]
    rows = [{"image": str(path), "caption": names[path.stem]} for path in paths]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len({row["caption"] for row in rows})


def general_shape() -> ImageShape:
    """Return the image tower of the general student."""
    from tinyclip_edge.models import load_clip
    from tinyclip_edge.tailoring.tower_kinds import teacher_tower

    return teacher_tower(load_clip("starter-50", allow_random=True)).shape


def general_mb(labels: int) -> float:
    """Return the megabytes of the general student's classifier."""
    from tinyclip_edge.models import load_clip
    from tinyclip_edge.tailoring.measure import meter
    from tinyclip_edge.tailoring.tower_kinds import teacher_tower

    teacher = load_clip(TEACHER)
    with meter(teacher, teacher_tower(teacher), labels, None) as scales:
        return scales.cost(general_shape()).mb


def overrides(arm: str, domain: Domain, pairs: Path, names: int, batch: int) -> list[str]:
    """Return an arm's changes to the configuration of a tailored run."""
    if arm == WITHOUT:
        parts = importance(GENERAL_IMPORTANCE, domain.files["train"], domain.files["names"])
        return [f"inherit.importance={json.dumps(parts)}"]
    if arm == PAIRED:  # batches of different names, as the contrastive loss requires
        return [
            "data.images=null", "data.texts=null", f"data.train={pairs}", "loss.contrastive=1",
            f"optim.batch_size={min(batch, names)}",
        ]  # fmt: skip
    return []


class DomainArms:
    """The runs of one domain."""

    def __init__(self, arguments: argparse.Namespace, domain: Domain) -> None:
        self.arguments, self.domain = arguments, domain
        self.tailoring, self.prepared = tailoring_of(
            domain.pictures,
            domain.files["names"],
            arguments.work / f"tailor-{domain.name}",
            teacher=TEACHER,
            max_mb=SHARE * general_mb(len(domain.labelled.labels)),
            max_ms=NO_LIMIT,
            minutes=arguments.search_steps / 60,  # a step counts as a second
            candidates=arguments.candidates,
        )
        self.halving = search(self.tailoring, self.prepared)
        self._pairs = arguments.work / f"{domain.name}-pairs.jsonl"
        self._names = write_pairs(domain, self.tailoring.work.train, self._pairs)

    def config(self, arm: str, seed: int) -> RunConfig:
        """Return the run of any arm but the general one."""
        from tinyclip_edge.config import dump_config, load_config

        best = self.tailoring.shape(self.halving.winner)
        shape = general_shape() if arm == SAME_BYTES else best
        steps = self.arguments.steps
        base = self.tailoring.config(shape, self.prepared.train, steps)
        path = self.arguments.work / f"{self.domain.name}-{shape.name}.yaml"
        path.write_text(dump_config(base))
        batch = base.optim.batch_size
        changes = overrides(arm, self.domain, self._pairs, self._names, batch)
        at_end = evaluated_at_end(steps, seed, str(self.domain.files["val"]))
        return load_config(path, [*changes, *at_end])

    def train(self, arm: str, seed: int) -> Record:
        """Train, export and measure an arm, or read its record."""
        from tinyclip_edge.config import load_config

        work, name = self.arguments.work, folder_name(arm, seed)
        if arm == GENERAL:  # one run for all domains
            end = evaluated_at_end(self.arguments.steps, seed, self.arguments.val)
            config, run = load_config("starter", end), name
        else:
            config, run = self.config(arm, seed), f"{self.domain.name}-{name}"
        record = cached_run(config, work / run, {"arm": run, "seed": seed}, accuracies)
        measured = measured_student(
            finished_student(work, run),
            work / "bundles" / f"{self.domain.name}-{name}",
            self.domain.labelled,
            str(self.domain.files["val"]),
        )
        print(self.domain.name, arm, seed, measured, flush=True)
        return {**record, **measured}

    def facts(self) -> dict[str, Any]:
        """Return the results of the search."""
        rows = {
            shape.name: {"mb": round(cost.mb, 3), "steps": self.halving.steps[shape.name]}
            for shape, cost in self.tailoring.candidates.costs.items()
        }
        for name, agreed in self.halving.results.items():
            rows[name]["teachers_labels"] = round(100 * agreed.top1, 2)
        return {
            "names": len(self.domain.labelled.labels),
            "twemoji": len(self.domain.labelled.images),
            "pictures": self.prepared.train,
            "teacher_top1": self.domain.labelled.top1(TEACHER),
            "max_bytes": round(1e6 * self.tailoring.request.max_mb),
            "shape": self.halving.winner,
            "same_bytes_shape": asdict(general_shape()),
            "candidates": rows,
        }


def row(records: list[Record], baseline: list[Record]) -> Row:
    """Return an arm's figures, and its gains over the general student with the same seed."""
    top1 = [record["top1"] for record in records]
    differences = [end - start["top1"] for end, start in zip(top1, baseline, strict=True)]
    return {
        "seeds": [record["seed"] for record in records],
        "bytes": records[0]["bytes"],
        "top1": top1,
        "top1_mean": round(statistics.mean(top1), 2),
        "fp32_top1": [record["fp32_top1"] for record in records],
        "gain": [round(difference, 2) for difference in differences],
        "gain_mean": round(statistics.mean(differences), 2),
        "seconds_mean": round(statistics.mean(record["seconds"] for record in records), 1),
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/tailored", steps=400)
    parser.add_argument("--search-steps", type=int, default=800, help="steps of all candidates")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    arguments = parser.parse_args()

    settings = {
        "steps": arguments.steps, "search_steps": arguments.search_steps,
        "candidates": arguments.candidates,
    }  # fmt: skip
    arguments.work = arguments.work.resolve()
    arguments.val = prepare(arguments, settings)
    results: dict[str, Any] = {
        **settings, "measured_on": "Twemoji, int8 classifiers", "domains": {}
    }  # fmt: skip
    for name in arguments.domains:
        runs = DomainArms(arguments, open_domain(arguments.work, name))
        results["domains"][name] = {**runs.facts(), "arms": {}}
        rows = results["domains"][name]["arms"]
        measure(arguments, (GENERAL, *ARMS), runs.train, row, results=results, rows=rows)


if __name__ == "__main__":
    main()
