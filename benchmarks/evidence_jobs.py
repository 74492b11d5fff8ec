"""The jobs of ``make evidence``: what is measured, by which commands, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass

THREE = "--seeds 0 1 2"
KNOWN_RATES = "--rates inherited={} affinity=5e-4 scratch=5e-4"


@dataclass(frozen=True, slots=True)
class Job:
    """Commands that write ``results``, one after another.

    In a command, ``{work}`` is the job's folder, which keeps finished runs, ``{out}`` the folder
    for results, ``{starter}`` that of the starter teacher, and ``{NAME}``, with the name of a job
    in ``after``, that job's folder. The first word is a script of this folder, ``-m`` with a
    module, or ``cp``. ``prints``: the result is the JSON that the command prints; no runs are kept.
    """

    name: str
    minutes: int  # on two cores, roughly
    results: tuple[str, ...]
    commands: tuple[str, ...]
    after: tuple[str, ...] = ()
    prints: bool = False


def _runs(name: str, minutes: int, command: str) -> Job:
    """Return a job of a benchmark that keeps its finished runs."""
    out = f"{name}.json"
    return Job(name, minutes, (out,), (f"{command} --work {{work}} --out {{out}}/{out}",))


def _arms(name: str, minutes: int, student: str, lr: str, more: str = "") -> Job:
    rates = KNOWN_RATES.format(lr)
    command = f"distill_arms.py --student {student} {rates} {THREE} {more}"
    return Job(
        name,
        minutes,
        (f"{name}.json", f"{name}.png"),
        (f"{command} --work {{work}} --out {{out}}/{name}",),
    )


def _of_student(name: str, minutes: int, command: str) -> Job:
    """Return a job that uses the student or the bundle of the quickstart."""
    return Job(
        name, minutes, (f"{name}.json",), (f"{command} --out {{out}}/{name}.json",), ("quickstart",)
    )


LONG = "--steps 4000 --every 500"
PATHS = f"shrink_paths.py {THREE} --work {{work}}"
PLAIN_TEACHER = "{work}/teacher/final"
JOBS = (
    Job("quickstart", 5, ("quickstart.json",), ("-m tinyclip_edge quickstart --json",),
        prints=True),
    _runs("cold-start", 3, "cold_start.py --rounds 12"),
    _of_student("cold-search", 5, "cold_search.py {quickstart}/bundles/quickstart"),
    _of_student("serve-load", 3, "serve_load.py --bundle {quickstart}/bundles/quickstart"),
    Job("training-speed", 10, ("training-speed.json",),
        ("training_speed.py --rounds 3 --out {out}/training-speed.json",)),
    _runs("export-latency", 30,
          "export_latency.py --batches 1 16 --rounds 60 --large-rounds 50 --resume"),
    _runs("export-latency-single", 15,
          "export_latency.py --batches 1 16 --rounds 60 --large-rounds 50 --resume "
          "--target x86-vnni-single --models TinyCLIP-ViT-8M-16-Text-3M"),
    _runs("int8-forms", 5, "int8_forms.py"),
    _runs("bundle-sizes", 20, "bundle_sizes.py"),
    Job("published-recipes", 2, ("published-recipes.json",),
        ("published_recipes.py --out {out}/published-recipes.json",)),
    Job("vocabulary", 5, ("vocabulary.json",), ("vocabulary.py --out {out}/vocabulary.json",)),
    Job("index-scale", 15, ("index-scale.json",),
        tuple(f"index_scale.py --vectors {count} --threads 1 --work {{work}} "
              "--out {out}/index-scale.json" for count in (200_000, 1_000_000))),
    _of_student("fewer-bits", 90, "fewer_bits.py {quickstart}/runs/quickstart"),
    _runs("convolution-int8", 90, "convolution_int8.py --steps 260 --pictures 4000"),
    _runs("domain-importance", 10, f"domain_importance.py {THREE}"),
    _runs("selection", 60, f"selection.py {THREE}"),
    _runs("mapped-inheritance", 30, f"mapped_inheritance.py {THREE}"),
    Job("mapped-inheritance-300", 20, ("mapped-inheritance-300.json",),
        (f'mapped_inheritance.py {THREE} --students "5 %" --steps 300 --work {{work}} '
         "--out {out}/mapped-inheritance-300.json",)),
    _runs("shipped-runs", 45, f"shipped_runs.py {THREE}"),
    _arms("arms-15", 25, "starter-15", "2e-3"),
    _arms("arms-50", 30, "starter-50", "1e-3"),
    _runs("half", 40, f"shrink_paths.py --question half {THREE}"),
    _runs("quarter", 45, f"shrink_paths.py --question quarter {THREE}"),
    _runs("starter-ablation", 75, f"starter_ablation.py {THREE}"),
    _runs("unpaired", 60, f"unpaired.py {THREE}"),
    _runs("teacher-fusion", 90, f"teacher_fusion.py {THREE}"),
    _runs("family-worth", 120, f"family_worth.py {THREE}"),
    _runs("loss-options", 160, f"loss_options.py {THREE}"),
    _runs("tailored", 120, f"tailored.py {THREE}"),
    _runs("equal-time", 60, f"equal_time.py {THREE}"),
    _arms("arms-15-long", 100, "starter-15", "2e-3", LONG),
    _arms("arms-50-long", 200, "starter-50", "1e-3", LONG),
    Job("no-layer-drop", 300, ("half-no-layer-drop.json", "quarter-no-layer-drop.json"), (
        # The starter teacher's settings from before LayerDrop, with a cooldown at the end.
        "-m starter.train_teacher --out {work}/teacher --resume --steps 1819 --cooldown 280 "
        "--layer-drop 0",
        f"cp {{starter}}/tokenizer.json {{starter}}/tokenizer_config.json {PLAIN_TEACHER}",
        *(f"{PATHS} --question {question} --teacher {PLAIN_TEACHER} "
          f"--out {{out}}/{question}-no-layer-drop.json" for question in ("half", "quarter")),
    )),
)  # fmt: skip

# Benchmarks that ``make evidence`` leaves out, and why.
LEFT_OUT = {
    "natural_teacher.py, natural_arms.py, natural_transfer.py, natural_precisions.py, "
    "natural_tailored.py":
        "Tiny-ImageNet and CIFAR-10, which are not shipped, and a GPU",
    "training_speed.py --device cuda": "a GPU",
    "cross_check.py, cross_check_sets.py": "CIFAR-10 and Tiny-ImageNet, which are not shipped",
    "familiarity.py, familiarity_scores.py, decode_modes.py":
        "photographs, which are not shipped",
    "collection_peers.py, file_to_embedding.py":
        "photographs, which are not shipped, and environments of other programs",
    "against_peers.py": "environments of other exporters, 8 GB",
    "targets.py --times": "the engines' environments of make devices",
    "demo_page.py": "Chromium",
}  # fmt: skip
