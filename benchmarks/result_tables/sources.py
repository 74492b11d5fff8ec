"""Tables of what students learn from: pairs or unpaired data, one domain, teachers, families."""

from __future__ import annotations

from result_tables.table import Result, Table, each, millions, of_seeds, rows


def gains(result: Result) -> str:
    """Return the arms of one benchmark, with their gains over the first one."""
    body = [
        (name, of_seeds(row["r1"]), f"{row['gain_mean']:+.2f} ({each(row['gain'], '+.1f')})")
        for name, row in result["arms"].items()
    ]
    return rows(("arm", "recall@1", "gain (by seed)"), body)


def unpaired(result: Result) -> str:
    body = [
        (
            name,
            of_seeds(row["r1"]),
            f"{row['share_mean']:.1f} ({each(row['share_of_paired'])})",
        )
        for name, row in result["arms"].items()
    ]
    return rows(("arm", "recall@1", "% of paired (by seed)"), body)


def domain_importance(result: Result) -> str:
    body = [
        (
            domain,
            arm,
            of_seeds(row["r1_before_training"]),
            of_seeds(row["r1"]),
            f"{row['gain_mean']:+.2f} ({each(row['gain'], '+.1f')})",
            of_seeds(row["all_concepts_r1"]),
        )
        for domain, arms in result["domains"].items()
        for arm, row in arms.items()
    ]
    head = ("domain", "importance of", "before training", "recall@1", "gain (by seed)")
    return rows((*head, "recall@1, all Twemoji"), body)


def tailored(result: Result) -> str:
    """Return classifiers of each domain, beside the general student and the paired one."""
    body = []
    for domain, about in result["domains"].items():
        arms = about["arms"]
        body.append((domain, "teacher", "", f"{about['teacher_top1']:.1f}", "", ""))
        for arm, row in arms.items():
            paired = arms.get("tailored, pairs", {}).get("top1_mean")
            share = f"{100 * row['top1_mean'] / paired:.0f}" if arm == "tailored" and paired else ""
            gain = f"{row['gain_mean']:+.1f} ({each(row['gain'], '+.1f')})"
            top1 = of_seeds(row["top1"])
            body.append((domain, arm, millions(row["bytes"]), top1, gain, share))
    head = ("domain", "student", "MB", "top-1", "gain over general (by seed)", "% of paired")
    return rows(head, body)


def selection(result: Result) -> str:
    """Return the parts of the benchmark that have been measured."""
    parts = []
    if planted := result.get("planted"):
        keys = ("precision", "recall at twice as many")
        body = [
            (name, *(of_seeds(row[key]["seeds"]) for key in keys))
            for name, row in planted.items()
            if isinstance(row, dict)
        ]
        about = f"{planted['planted']:,} planted among {planted['of']:,}, %"
        parts.append(rows((about, *keys), [*body, ("chance", f"{planted['chance']:.1f}", "")]))
    if students := result.get("students"):
        body = [
            (name, of_seeds(row["r1"]), f"{row['top1_100_mean']:.1f}")
            for name, row in students.items()
            if isinstance(row, dict) and "r1_mean" in row
        ]
        body.append(("teacher", f"{students['teacher']['r1']:.1f}",
                     f"{students['teacher']['top1_100']:.1f}"))  # fmt: skip
        about = f"{students['pairs']:,} pairs, {students['steps']:,} steps"
        parts.append(rows((about, "recall@1", "top-1 among 100"), body))
    if rate := result.get("rate"):
        body = [(f"{rate['captions']:,}", f"{rate['processor_seconds']:.1f}",
                 f"{rate['captions_per_processor_second']:,}")]  # fmt: skip
        parts.append(rows(("captions", "processor seconds", "captions a second"), body))
    return "\n\n".join(parts)


def family_worth(result: Result) -> str:
    """Return a row for each family; recalls before training are those of the first seed."""
    body = []
    for name, family in result["families"].items():
        arms = (family["inherited"], family["random"])
        before = (f"{arm['r1_before_training'][0]:.1f}" for arm in arms)
        ends = (of_seeds(arm["r1"], best=arm is arms[0]) for arm in arms)
        body.append((name, f"{family['teacher_r1']:.1f}", *before, *ends))
    head = ("family", "teacher", "inherited, untrained", "random, untrained")
    return rows((*head, "inherited", "random"), body)


TABLES = {
    "unpaired": Table(unpaired, ("unpaired.json",)),
    "teacher-fusion": Table(gains, ("teacher-fusion.json",)),
    "domain-importance": Table(domain_importance, ("domain-importance.json",)),
    "tailored": Table(tailored, ("tailored.json",)),
    "selection": Table(selection, ("selection.json",)),
    "family-worth": Table(family_worth, ("family-worth.json",)),
}
