"""Tables of exported towers: accuracy, bytes and latency."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from result_tables.table import Result, Table, bold, of_seeds, percent, rows
from result_tables.trained import shipped_15
from tinyclip_edge.units import three_digits

DEFAULTS = {"q4 gptq", "q4 gptq, 3-bit table"}  # of export
COLD_STARTS = ("EdgeCLIP int8", "EdgeCLIP fp32", "open_clip, torch")
OURS = "ours int8"  # the base of the peers' times


def fewer_bits(result: Result) -> str:
    """Return a row for each form, means over its calibration samples.

    ``lost, all`` weights the sets by their pairs; its standard error is that of one sample.
    """
    sizes = result["pairs"]
    count = sum(sizes.values())
    body = []
    for name, samples in sorted(result["forms"].items()):

        def mean(key: str, part: str, samples: list[Any] = samples) -> float:
            return statistics.fmean(sample[part][key] for sample in samples)

        lost = sum(sizes[part] * mean("drop", part) for part in sizes) / count
        error = sum((sizes[part] * mean("stderr", part)) ** 2 for part in sizes) ** 0.5 / count
        body.append((
            bold(name, name in DEFAULTS),
            f"{samples[0]['bytes'] / 1e6:.2f}",
            str(len(samples)),
            f"{lost:+.2f} ± {error:.2f}",
            *(f"{mean('drop', part):+.2f}" for part in sizes),
            f"{mean('same_top1', 'val'):.1f}",
            f"{mean('image_cosine', 'val'):.4f}",
            f"{mean('text_cosine', 'val'):.4f}",
        ))  # fmt: skip
    head = ("form", "MB", "samples", "lost, all", *(f"lost, {part}" for part in sizes))
    return rows((*head, "same first hit, %", "image cosine", "text cosine"), body)


def bundle_sizes(result: Result) -> str:
    """Return a row for each form of a bundle: bytes of both towers, and lowest cosines."""
    body = [
        (
            name,
            f"{form['MB']:.1f}",
            *(f"{form['cosine'][tower]:.4f}" for tower in ("image", "text")),
        )
        for name, form in result["forms"].items()
    ]
    return rows((f"{result['model']}, both towers", "MB", "image cosine", "text cosine"), body)


def vocabulary(result: Result) -> str:
    towers = result["MB of the text tower"]
    forms = list(next(iter(towers.values())))
    body = [(name, *(f"{sizes[form]:,.1f}" for form in forms)) for name, sizes in towers.items()]
    return rows(("text tower, MB", *forms), body)


def _short(model: str) -> str:
    return model.removeprefix("TinyCLIP-")


def convolutions(result: Result) -> str:
    """Return a row for each form: cosines to fp32, and speed relative to it by median and least."""
    trained, spread, times = result["trained"], result["spread"]["cosine"], result["ms"]
    body = [
        (
            name,
            f"{trained['bytes'][name] / 1e6:.1f}",
            f"{cosine['min']:.3f}",
            f"{cosine['median']:.4f}",
            f"{spread[name]['min']:.3f}",
            f"{times[name]['faster']['median']:.2f}",
            f"{times[name]['faster']['min']:.2f}",
        )
        for name, cosine in trained["cosine"].items()
    ]
    columns = ("form", "MB", "lowest cosine", "median", "lowest, spread", "times as fast", "least")
    return rows(columns, body)


def _place(row: dict[str, Any], *keys: str) -> tuple[Any, ...]:
    return tuple(row[key] for key in keys)


def latency_aims(result: Result, single: Result) -> str:
    """Return speed-ups beside their aims; rows of ``single`` have single-threaded sessions."""
    keys = ("model", "tower", "from", "to")
    of_single = {_place(line, *keys): line for line in single["asked"]}
    body = []
    for line in result["asked"]:
        place = _place(line, *keys)
        model, tower, slow, fast = place
        label = f"{_short(model)} {tower}, {slow} to {fast}".replace("onnx ", "")
        pairs = [(label, line, result)]
        if place in of_single:
            pairs.append(("— single", of_single[place], single))
        for name, each, source in pairs:
            ms = next(row["ms"] for row in source["rows"]
                      if _place(row, "model", "tower", "batch", "threads")
                      == (model, tower, 1, 1))  # fmt: skip
            times = " to ".join(three_digits(ms[end]["median"]) for end in (slow, fast))
            ratios = (bold(f"{each[key]:.2f}", each[key] >= each["asked"])
                      for key in ("median", "min"))  # fmt: skip
            body.append((f"{name} ({times} ms)", f"{each['asked']:g}", *ratios))
    return rows(("", "aimed at", "median", "least"), body)


def int8_forms(result: Result) -> str:
    """Return a row for each form: how many times as fast as fp32, least time (median)."""
    batches = [part["ms"] for part in result["batches"].values()]

    def faster(ms: dict[str, dict[str, float]], form: str, clock: str) -> str:
        return f"{ms['fp32'][clock] / ms[form][clock]:.2f}"

    body = [
        (form, *(f"{faster(ms, form, 'min')} ({faster(ms, form, 'median')})" for ms in batches))
        for form in batches[0]
        if form != "fp32"
    ]
    heads = (f"batch {batch}" for batch in result["batches"])
    return rows(("file", *heads), body)


def latency_batches(result: Result, single: Result) -> str:
    """Return milliseconds on one thread."""
    body = []
    for source, suffix in ((result, ""), (single, ", single")):
        cells: dict[tuple[str, str], list[str]] = {}
        for row in source["rows"]:
            if row["threads"] == 1:
                slow, fast = (row["ms"][f"onnx {form}"]["median"] for form in ("fp32", "int8"))
                text = f"{three_digits(slow)} to {three_digits(fast)}, {slow / fast:.1f} times"
                cells.setdefault((row["model"], row["tower"]), []).append(text)
        body += [(f"{_short(model)} {tower}{suffix}", *texts)
                 for (model, tower), texts in cells.items()]  # fmt: skip
    return rows(("one thread, fp32 to int8, ms", "batch 1", "batch 16"), body)


def against_peers(result: Result) -> str:
    """Return one row per contender for each model, with times relative to our int8."""
    return "\n\n".join(f"{name}:\n\n{peers(part)}" for name, part in result["models"].items())


def peers(part: Result, clock: str = "median") -> str:
    """Return one row per contender, and why others are missing."""
    models = part["contenders"]
    base = models[OURS]["ms"]

    def cells(name: str, row: dict[str, Any]) -> Iterator[str]:
        yield name
        for tower in ("image", "text"):
            ms = row["ms"][tower][clock]
            ours = f" ({ms:.2f} ms)" if name == OURS else ""
            yield f"{ms / base[tower][clock]:.2f}{ours}"
        yield f"{row['bytes'] / 1e6:.1f}"
        for tower in ("image", "text"):
            yield f"{row[f'{tower}_cosine']:.4f} ({row[f'{tower}_cosine_min']:.4f})"
        yield f"{row['same_label']:.1%}"

    ordered = sorted(models.items(), key=lambda item: float(item[1]["ms"]["image"][clock]))
    head = ("contender", "image", "text", "MB", "image cosine, mean (least)", "text cosine")
    table = rows((*head, "same label"), (tuple(cells(*item)) for item in ordered))
    missing = [f"\nNot run: {name}: {reason}" for name, reason in part["missing"].items()]
    return "\n".join([table, *missing])


def cold_start(result: Result) -> str:
    body = []
    for name in COLD_STARTS:
        variant = result["variants"][name]
        seconds = variant["seconds"]
        body.append((
            name.replace(", torch", " on torch"),
            f"{bold(format(seconds['median'], '.2f'), name == COLD_STARTS[0])} "
            f"({seconds['min']:.2f})",
            f"{variant['peak_mb']['max']:,.0f} MB",
        ))  # fmt: skip
    return rows(("", "seconds, median (least)", "peak memory"), body)


MODELS = {"student": "student, 400 steps", "student int8": "its int8"}


def quickstart(result: Result) -> str:
    """Return retrieval in both directions, from ``tinyclip-edge quickstart --json``."""
    body = []
    for row in result["rows"]:
        retrieval = row["details"]["sets"][0]["retrieval"]
        body.append((
            MODELS.get(row["label"], row["label"]),
            percent(row["encoder_parameters"] / result["rows"][0]["encoder_parameters"]),
            f"{row['megabytes']:.1f}",
            *(f"{100 * retrieval[way][k]:.1f}" for way in ("t2i", "i2t") for k in ("1", "5", "10")),
        ))  # fmt: skip
    head = ("", "encoders", "MB", "text→image @1", "@5", "@10", "image→text @1", "@5", "@10")
    return rows(head, body)


def headline(quick: Result, shipped: Result, beside: Result, cold: Result, natural: Result) -> str:
    """Return the claims of the front page."""
    teacher, student, int8 = quick["rows"]
    recalls = [100 * row["recall_at_1"] for row in quick["rows"]]
    share = percent(student["encoder_parameters"] / teacher["encoder_parameters"])
    seeds = shipped["runs"]["starter, fp32"]["t2i_r1"]
    ms = {name: row["ms"]["image"]["median"]
          for name, row in beside["models"]["quickstart"]["contenders"].items()}  # fmt: skip
    starts = [cold["variants"][name] for name in (COLD_STARTS[0], COLD_STARTS[-1])]
    seconds, memory = (
        [start[key][figure] for start in starts]
        for key, figure in (("seconds", "median"), ("peak_mb", "max"))
    )
    top1 = {name: f"{arm['top1_mean']:.1f}" for name, arm in natural["arms"].items()}
    body = [
        (f"student with {share} of the encoder parameters, 400 steps",
         f"{percent(statistics.mean(seeds) / recalls[0])} of the teacher's recall@1 "
         f"({of_seeds(seeds)} of {recalls[0]:.1f} ± {100 * teacher['recall_at_1_stderr']:.1f})",
         "`make quickstart` with three seeds: `benchmarks/shipped_runs.py`"),
        ("the same student in int8",
         f"{recalls[2] - recalls[1]:+.1f} points of recall@1, "
         f"{percent(int8['megabytes'] / student['megabytes'])} of the bytes", "`make quickstart`"),
        ("its image tower, one thread",
         f"{ms['torch eager'] / ms[OURS]:.1f} times as fast as PyTorch",
         "`benchmarks/against_peers.py`"),
        shipped_15(shipped),
        ("process start to first text embedding, TinyCLIP-8M/16",
         f"{seconds[0]:.2f} s and {memory[0]:.0f} MB; open_clip on torch {seconds[1]:.1f} s and "
         f"{memory[1]:,.0f} MB", "`benchmarks/cold_start.py`"),
        ("natural images: student with 8.9 %, against full size from scratch",
         f"{top1['tiny']} against {top1['full-scratch']} % top-1 "
         f"(teacher {natural['teacher']['top1']:.1f} %)", "`benchmarks/natural_arms.py`"),
    ]  # fmt: skip
    return rows(("measurement", "result", "command"), body)


LATENCIES = ("export-latency.json", "export-latency-single.json")
TABLES = {
    "headline": Table(
        headline,
        (
            "quickstart.json",
            "shipped-runs.json",
            "against-peers.json",
            "cold-start.json",
            "natural.json",
        ),
    ),
    "quickstart": Table(quickstart, ("quickstart.json",)),
    "fewer-bits": Table(fewer_bits, ("fewer-bits.json",)),
    "convolution-int8": Table(convolutions, ("convolution-int8.json",), timed=True),
    "bundle-sizes": Table(bundle_sizes, ("bundle-sizes.json",)),
    "vocabulary": Table(vocabulary, ("vocabulary.json",)),
    "latency-aims": Table(latency_aims, LATENCIES, timed=True),
    "latency-batches": Table(latency_batches, LATENCIES, timed=True),
    "int8-forms": Table(int8_forms, ("int8-forms.json",), timed=True),
    "against-peers": Table(against_peers, ("against-peers.json",), timed=True),
    "against-peers-avx2": Table(against_peers, ("against-peers-avx2.json",), timed=True),
    "cold-start": Table(cold_start, ("cold-start.json",), timed=True),
}
