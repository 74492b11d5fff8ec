"""Tables of the natural images."""

from __future__ import annotations

from result_tables.table import Result, Table, bold, each, millions, rows

STILL = {
    "still-contrastive": "inherited, contrastive",
    "still-affinity": "inherited, affinity",
    "still-affinity+contrastive": "inherited, affinity + contrastive",
    "still-feature": "inherited, feature",
    "still-affinity+feature": "inherited, affinity + feature",
    "still-all": "inherited, all three",
    "still-random-affinity": "random, affinity",
    "still-random-contrastive": "random, contrastive",
    "still-published": "affinity, inherited by the `published` plan",
    "still-evenly": "affinity, inherited `evenly`",
}
MODELS = {
    "teacher": "teacher",
    "inherited-seed0": "half, inherited + contrastive",
    "tiny-seed0": "8.9 %, inherited + affinity",
}
FORMS = {"w8": "w8, weights alone", "q4": "q4, weights alone"}


def claims(result: Result) -> str:
    """Return the paper's claims beside our results; its figures are from arXiv 2309.12314."""
    arms = result["arms"]
    top1 = {name: f"{row['top1_mean']:.1f}" for name, row in arms.items()}
    both = f"{top1['both']} ({each(arms['both']['top1'])})"
    scratch = f"{top1['scratch']} ({each(arms['scratch']['top1'])})"
    affinity_steps = arms["affinity"]["steps_to_scratch_end"][0]
    fewer = arms["affinity"]["steps"] / affinity_steps
    gain = arms["tiny"]["top1_mean"] - arms["full-scratch"]["top1_mean"]
    sizes = [millions(arms[name]["encoder_parameters"]) for name in ("masks", "both")]
    body = [
        ("half the encoder parameters at the teacher's accuracy", "ViT-B/32 halved: comparable",
         f"teacher {result['teacher']['top1']:.1f}; affinity mimicking {both}, with learnt masks "
         f"**{top1['masks']}**; contrastive loss on the same inherited weights "
         f"**{top1['inherited']}**", "`both`, `masks`, `inherited`"),
        ("inheritance and affinity reach what training from scratch ends with in fewer steps (the "
         "8.9 % student: [below](#losses-weights-and-plans-by-themselves))", "1.4 to 7.8 times",
         f"what scratch has after {arms['scratch']['steps']:,} steps ({top1['scratch']}) the "
         f"inherited student has **before the first** ({arms['both']['top1_before'][0]:.1f}); "
         f"affinity from random weights needs {affinity_steps:.0f} ({fewer:.1f} times fewer)",
         "`both`, `affinity`, `scratch`"),
        ("8.9 % of the encoder parameters beat the full size from scratch on the same pairs",
         "41.1 against 37.6: +3.5",
         f"{top1['tiny']} against {top1['full-scratch']}: **{gain:+.1f}**",
         "`tiny`, `full-scratch`"),
        ("ablation at half size", "",
         f"random + contrastive {scratch}, affinity alone {top1['affinity']}, inheritance alone "
         f"(contrastive) {top1['inherited']}, both {top1['both']}; with feature mimicry as well "
         f"{top1['recipe']}", "all"),
        ("learnt masks against uniform inheritance, half size",
         "63M/32 by masks 63.9, 61M/32 by hand 62.4",
         f"{top1['masks']} against {top1['both']}, at {' and '.join(sizes)} M", "`masks`, `both`"),
        ("three stages against one, to 27.5 %", "stages are for high ratios",
         f"{top1['three-stages']} against {top1['one-stage']}", "`three-stages`, `one-stage`"),
    ]  # fmt: skip
    return rows(("claim", "paper", "here", "arms"), body)


def precisions(result: Result) -> str:
    models = result["models"]
    body = [
        (
            FORMS.get(name, name),
            f"{row['top1']:.1f}" + f" ± {row['stderr']:.1f}" * (name == "PyTorch"),
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['image']['median_ms']:.1f}",
        )
        for name, row in sorted(models.items(), key=lambda item: item[0] in FORMS)
    ]
    return rows(("", "top-1", "MB", "image ms"), body)


def transfer(result: Result) -> str:
    body = [
        (
            MODELS.get(name, name),
            f"{millions(row['encoder_parameters'], 1)} M",
            f"{row['zero_shot']['top1']:.1f}",
            f"{row['linear_probe']['top1']:.1f}",
        )
        for name, row in result["models"].items()
    ]
    return rows(("", "encoder parameters", "zero-shot", "linear probe"), body)


def still(result: Result) -> str:
    arms = result["arms"]
    best = max(arms, key=lambda name: arms[name]["top1_mean"])
    body = [
        (label, each(arms[name]["top1"]), bold(f"{arms[name]['top1_mean']:.1f}", name == best))
        for name, label in STILL.items()
        if name in arms
    ]
    return rows(("", "three seeds", "top-1"), body)


def tailored(result: Result) -> str:
    """Return classifiers of one domain; the teacher's bytes and time are of its image tower."""
    models = result["models"]
    body = [
        (
            name,
            millions(row["bytes"]),
            f"{models['teacher']['bytes'] / row['bytes']:.0f}" if name != "teacher" else "",
            f"{row['ms']:.2f}",
            f"{row['top1']:.1f}",
            f"{row['share_of_teacher']:.0f}" if "share_of_teacher" in row else "",
        )
        for name, row in models.items()
    ]
    return rows(("", "MB", "times smaller", "ms", "top-1", "% of the teacher's"), body)


TABLES = {
    "natural-claims": Table(claims, ("natural.json",)),
    "natural-precisions": Table(precisions, ("natural-precisions.json",), timed=True),
    "natural-transfer": Table(transfer, ("natural-transfer.json",)),
    "natural-tailored": Table(tailored, ("natural-tailored.json",), timed=True),
    "natural-still": Table(still, ("natural-still.json",)),
}
