"""Tables of searching, serving and evaluating."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from result_tables.table import Result, Table, bold, rows

SETS = {
    "starter:val": "starter:val (sets the limit)",
    "starter:test_concepts": "unseen concepts",
    "starter:test_style": "the unseen style",
    "tiny-imagenet-200": "photographs, Tiny-ImageNet",
    "cifar10-test": "photographs, CIFAR-10",
    "imagenet-1k-sample": "photographs, ImageNet",
}


def cold_search(result: Result) -> str:
    here = result["here"]
    body = [
        (
            f"{result['pictures']:,} pictures",
            f"{here['s_median']:.2f} ({here['s_least']:.2f})",
            f"{here['cpu_s_median']:.2f} ({here['cpu_s_least']:.2f})",
        )
    ]
    head = ("a whole process", "seconds, median (least)", "CPU-seconds, median (least)")
    return rows(head, body)


def serve_load(result: Result) -> str:
    body = [
        ("responses, lost", f"{result['answers']:,}, {result['lost']}"),
        ("responses per second", f"{result['a_second']:.0f}"),
        ("median, 95th percentile", f"{result['p50_s']:.1f} s, {result['p95_s']:.1f} s"),
        ("memory after 10 s, maximum",
         f"{result['memory_mb_after_10_s']} MB, {result['memory_mb_at_most']} MB"),
        ("under way at SIGTERM, answered", f"{result['of']}, {result['answered_after_sigterm']}"),
    ]  # fmt: skip
    return rows((f"{result['clients']} clients, {result['seconds']} s", "figure"), body)


def index_scale(result: Result) -> str:
    runs = list(result["runs"].values())
    searches = [key for key in runs[0]["search"] if key.endswith("candidates")
                and all(key in run["search"] for run in runs)]  # fmt: skip

    def searched(key: str) -> Callable[[dict[str, Any]], str]:
        return lambda run: (
            f"{run['search'][key]['recall_at_10']:.3f} in {run['search'][key]['cpu_ms']:.1f} ms"
        )

    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "build, processor time": lambda run: f"{run['build_cpu_s']:.0f} s",
        "build, peak memory": lambda run: f"{run['peak_memory_mb']} MB",
        "file, graph in it": lambda run: f"{run['file_mb']} MB, {run['graph_mb']} MB",
        "open the mapped file, wall time":
            lambda run: f"{1000 * run['search']['open_s']:.0f} ms",
        "first search, which checks the graph, wall time":
            lambda run: f"{run['search']['first_search_s']:.2f} s",
        "memory afterwards, without pages of the file":
            lambda run: f"{run['search']['private_memory_mb']} MB",
        "peak memory, with all pages that searches read":
            lambda run: f"{run['search']['peak_memory_mb']} MB",
        **{key: searched(key) for key in sorted(searches, key=lambda key: key.split(",")[0])},
        "exact search": lambda run: f"{run['search']['exact_search_ms']:.0f} ms",
    }  # fmt: skip
    body = [(name, *map(cell, runs)) for name, cell in lines.items()]
    return rows(("", *(f"{run['vectors']:,}" for run in runs)), body)


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 2 else f"{value:.1f}"


def collection_peers(result: Result) -> str:
    """Return seconds and peak memory by program."""
    programs = list(next(iter(result["collections"].values())))
    body = []
    for name, measured in result["collections"].items():
        for work in ("index", "search"):
            rows_of = {program: measured[program][work] for program in programs}
            least = min(rows_of.values(), key=lambda row: float(row["seconds"]))
            body.append((
                f"{work}, {name.replace('-', ' ')}",
                *(f"{bold(_seconds(row['seconds']), row is least)} ({row['peak_mb']:,.0f})"
                  for row in rows_of.values()),
            ))  # fmt: skip
    sizes = (result["install"][program.partition(" ")[0]]["megabytes"] for program in programs)
    body.append(("installed packages, MB", *(f"{size:,.0f}" for size in sizes)))
    return rows(("seconds (peak memory, MB)", *programs), body)


def file_to_embedding(result: Result) -> str:
    one, folder = result["one_photo"], result["folder"]
    body = [
        (
            name,
            f"{1000 * one[name]['seconds_median']:.0f}",
            f"{one[name]['times_ours']['seconds_median']:.2f}",
            f"{1 / row['seconds_median']:.1f}",
            f"{row['times_ours']['seconds_median']:.2f}",
            f"{result['peak_mb'][name]:,.0f}",
        )
        for name, row in sorted(folder.items(), key=lambda item: float(item[1]["seconds_median"]))
    ]
    head = ("", "one photo, ms", "times ours", "folder, photos/s", "times ours", "peak MB")
    return rows(head, body)


def demo_page(result: Result) -> str:
    usable = sorted(start["usable_s"] for start in result["starts"])
    trip, queue, hostile = (result[key] for key in ("round_trip", "queue", "hostile"))
    body = [
        ("usable after the command", f"{usable[0]:.1f} to {usable[-1]:.1f} s, "
         f"{len(usable)} starts"),
        ("a click adds to the models' own time, median (p95)",
         f"{trip['median_added_ms']:.0f} ms ({trip['p95_added_ms']:.0f} ms)"),
        (f"requests of {queue['clients']} clients at once, answered",
         f"{queue['requests']}, {queue['answered']} in {queue['seconds']:.1f} s"),
        (f"memory after {hostile['uploads']} hostile uploads",
         f"{100 * hostile['memory_change']:+.0f} %"),
    ]  # fmt: skip
    return rows(("the page", "figure"), body)


def familiarity(result: Result) -> str:
    body = []
    for each in result["sets"]:
        path = PurePath(each["set"])
        name = path.parent.name if path.stem == "val" else path.stem
        body.append((SETS.get(name, name), f"{each['pictures']:,}",
                     f"{100 * each['unfamiliar']:.1f} %"))  # fmt: skip
    return rows(("set", "pictures", "unfamiliar"), body)


def familiarity_scores(result: Result) -> str:
    """Return a row for each score: photographs marked (of the unseen style), bundle by bundle."""
    bundles = result["bundles"]
    limits = ("1 % of val", "5 % of val", "5 % of style")

    def cell(shares: dict[str, float], limit: str) -> str:
        photographs = f"{100 * shares['photographs']:.0f}"
        return photographs if "style" in limit else f"{photographs} ({100 * shares['style']:.0f})"

    body = [
        (
            score,
            *(" / ".join(cell(each[score][limit], limit) for each in bundles.values())
              for limit in limits),
        )
        for score in next(iter(bundles.values()))
    ]  # fmt: skip
    return rows((f"distance, beside the looks: {' / '.join(bundles)}", *limits), body)


def natural_search(result: Result) -> str:
    """Return a row for each model: precision@5 and nDCG@10 of each group of queries."""
    groups = next(iter(result["models"].values()))
    body = [
        (PurePath(name).name, *(f"{figures[key]:.1f}" for figures in each.values()
                                for key in ("precision@5", "ndcg@10")))
        for name, each in result["models"].items()
    ]  # fmt: skip
    head = [
        f"{label}, {group}: {figures['queries']}"
        for group, figures in groups.items()
        for label in ("precision@5", "nDCG@10")
    ]
    return rows(("model", *head), body)


def decode_steps(result: Result) -> str:
    """Return processor milliseconds of each step for each kind of photo."""
    ms = result["ms"]
    heads = (f"{kind}, {result['megabytes'][kind]:.1f} MB" for kind in ms)
    body = [
        (step, *(f"{times[step]:.0f}" for times in ms.values())) for step in next(iter(ms.values()))
    ]
    return rows(("processor time, ms", *heads), body)


def decode_differences(result: Result) -> str:
    """Return how far `fast` is from `exact`, a row for each picture size and kind of JPEG."""
    body = [
        (
            f"{kinds['pixels']} pixels, {kind}",
            str(row["largest_levels"]),
            f"{row['mean_levels']:.2f}",
            f"{row['least_cosine']:.4f}",
        )
        for kinds in result["differences"].values()
        for kind, row in kinds.items()
        if kind != "pixels"
    ]
    return rows(("input", "largest", "mean", "least cosine"), body)


def cross_check(*results: Result) -> str:
    body = [
        (
            result["model"],
            f"{result['images']['file']}, {result['pairs']['name']}",
            row["task"],
            row["figure"],
            f"{row['ours']:.2f}",
            f"{row['theirs']:.2f}",
        )
        for result in results
        for row in result["rows"]
    ]
    return rows(("model", "data", "task", "figure", "ours", "clip-benchmark's"), body)


TABLES = {
    "cold-search": Table(cold_search, ("cold-search.json",), timed=True),
    "serve-load": Table(serve_load, ("serve-load.json",), timed=True),
    "index-scale": Table(index_scale, ("index-scale.json",), timed=True),
    "collection-peers": Table(collection_peers, ("collection-peers.json",), timed=True),
    "file-to-embedding": Table(file_to_embedding, ("file-to-embedding.json",), timed=True),
    "decode-steps": Table(decode_steps, ("decode-modes.json",), timed=True),
    "decode-differences": Table(decode_differences, ("decode-modes.json",)),
    "demo-page": Table(demo_page, ("demo-page.json",), timed=True),
    "familiarity": Table(familiarity, ("familiarity.json",)),
    "familiarity-teacher": Table(familiarity, ("familiarity-teacher.json",)),
    "natural-search": Table(natural_search, ("natural-search.json",)),
    "familiarity-scores": Table(familiarity_scores, ("familiarity-scores.json",)),
    "cross-check": Table(cross_check, ("cross-check.json", "cross-check-sets.json")),
}
