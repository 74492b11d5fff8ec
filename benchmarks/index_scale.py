"""Approximate search of a large index: time to build, recall, time of a search, memory.

Vectors are distributed like CLIP embeddings of photographs: a common mean (two random pictures have
a cosine of about 0.5), topics of 250 pictures on average, whose sizes decrease with their rank, and
variances that decrease over the dimensions, in a random rotation. They are generated in blocks from
seeds and rounded to int8. Queries are not in the index:
pictures of the same topics, and texts, which lie in a direction away from all pictures but lean
towards a topic.

The graph is built in one process and searched in another, which maps the saved file into memory.
Vectors and graph are written in parts, and a run goes on with what an earlier one has written.

    python benchmarks/index_scale.py --vectors 200000 --out benchmarks/results/index-scale.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from machine import machine_facts
from tinyclip_edge import ImageIndex
from tinyclip_edge.runtime import graph
from tinyclip_edge.runtime.graph import Graph, GraphFacts
from tinyclip_edge.runtime.graph_layout import node_count
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import int8_codes, nearest_rows, unit

BLOCK = 1 << 16  # vectors that are generated at a time
PART = 250_000  # vectors that a graph grows by before it is written
TOPIC = 250  # mean number of vectors per topic
QUERIES = 1000  # of each kind
JUDGED = 200  # queries of each kind that are compared with exact search
K = 10
ROUNDING = 1e-6


class Pictures:
    """A distribution of unit vectors ``[N, D]`` and of queries."""

    def __init__(self, vectors: int, width: int) -> None:
        generator = np.random.default_rng(width)
        falling = np.arange(1, width + 1, dtype=np.float32) ** -0.5
        self.within = unit(falling[None] ** 0.5)[0]
        rotation = np.linalg.qr(generator.standard_normal((width, width)))[0]
        self.rotation = rotation.astype(np.float32)
        self.mean, self.gap = self.rotation[0], self.rotation[1]
        topics = max(100, vectors // TOPIC)
        self.topics = generator.standard_normal((topics, width), np.float32) * unit(falling[None])
        sizes = 1 / np.arange(1, topics + 1) ** 0.5
        self.ends = np.cumsum(sizes / sizes.sum())

    def pictures(self, generator: np.random.Generator, count: int) -> Features:
        """Return pictures: mean, topic and own part are 0.5, 0.3 and 0.2 of the squared length."""
        topics = np.searchsorted(self.ends, generator.random(count)).clip(max=len(self.topics) - 1)
        own = generator.standard_normal((count, len(self.within)), np.float32) * self.within
        turned = (0.3**0.5 * self.topics[topics] + 0.2**0.5 * own) @ self.rotation
        return unit(turned + 0.5**0.5 * self.mean)

    def texts(self, generator: np.random.Generator, count: int) -> Features:
        """Return texts, whose topic has a smaller share of the length than a picture's."""
        topics = generator.integers(len(self.topics), size=count)
        own = generator.standard_normal((count, len(self.within)), np.float32) * self.within
        turned = (0.2**0.5 * self.topics[topics] + 0.1**0.5 * own) @ self.rotation
        return unit(turned + 0.7**0.5 * self.gap)


def stored(vectors: int, width: int, work: Path) -> tuple[npt.NDArray[np.int8], Features]:
    """Return int8 ``[N, D]`` in a file, and their scales; existing blocks are kept."""
    codes_path, scales_path = work / f"codes-{vectors}.npy", work / f"scales-{vectors}.npy"
    done_path = work / f"done-{vectors}"
    mode = "r+" if done_path.exists() else "w+"
    codes = np.lib.format.open_memmap(codes_path, mode, np.int8, (vectors, width))
    scales = np.lib.format.open_memmap(scales_path, mode, np.float32, (vectors,))
    pictures = Pictures(vectors, width)
    done = int(done_path.read_text()) if done_path.exists() else 0
    for start in range(done, vectors, BLOCK):
        count = min(BLOCK, vectors - start)
        block = pictures.pictures(np.random.default_rng([1, start]), count)
        codes[start : start + count], scales[start : start + count] = int8_codes(block)
        done_path.write_text(str(start + count))
    return codes, np.asarray(scales)


def megabytes(bytes_: float) -> int:
    return round(bytes_ / 2**20)


class Growth:
    """A graph that grows by parts, each written to a file with the time so far.

    A later run goes on with it, so that a build may take longer than a machine is free.
    """

    def __init__(self, index: ImageIndex, threads: int, work: Path) -> None:
        self.index, self.threads = index, threads
        self.content = work / f"graph-{len(index)}.npy"
        self.facts = work / f"graph-{len(index)}.json"
        self.done = {"s": 0.0, "cpu_s": 0.0, "peak_memory_mb": 0, "runs": 0}
        if self.facts.exists():
            self.done = json.loads(self.facts.read_text())
        self.done["runs"] += 1

    def whole(self) -> ImageIndex:
        """Return the index with a graph of all pictures."""
        stored = self._stored()
        while stored is None or stored.nodes < len(self.index):
            self._grow(stored)
            stored = self._stored()
        return replace(self.index, graph=stored)

    def _stored(self) -> Graph | None:
        if not self.content.exists():
            return None
        content = np.load(self.content, mmap_mode="r")
        labels = np.arange(node_count(content), dtype=np.uint32)
        return Graph(content, labels, GraphFacts("int8", graph.EXPANSIONS[0], 0.0, 0, 0))

    def _grow(self, before: Graph | None) -> None:
        size = min(len(self.index), PART + (0 if before is None else before.nodes))
        features = self.index.features[:size]
        wall, processor = time.perf_counter(), time.process_time()
        if before is None:
            after = graph.built(features, "int8", self.threads, lambda *_: None)
        else:
            after = before.extended(features, self.threads, lambda *_: None)
        self.done["s"] += time.perf_counter() - wall
        self.done["cpu_s"] += time.process_time() - processor
        self.done["peak_memory_mb"] = max(self.done["peak_memory_mb"], megabytes(memory("VmHWM")))
        # The old graph stays until the new one is whole.
        written = self.content.with_suffix(".new.npy")
        np.save(written, after.content)
        written.replace(self.content)
        self.facts.write_text(json.dumps(self.done))
        print(f"{size:,} of {len(self.index):,}, {self.done['s']:,.0f} s", flush=True)


def build(vectors: int, width: int, threads: int, work: Path) -> dict[str, Any]:
    started = time.perf_counter()
    codes, scales = stored(vectors, width, work)
    made = time.perf_counter()
    keys = tuple(f"/pictures/{number:08d}.jpg" for number in range(vectors))
    growth = Growth(ImageIndex(keys, codes, "synthetic-int8", scales), threads, work)
    index = growth.whole()
    begun = time.perf_counter()
    index = index.approximate(minimum=0, threads=threads)  # measures recall
    assert index.graph is not None
    ready = time.perf_counter()
    path = index.save(work / f"index-{vectors}")
    return {
        "vectors": vectors,
        "dimensions": width,
        "threads": threads,
        "runs": growth.done["runs"],
        "make_vectors_s": round(made - started, 1),
        "build_s": round(growth.done["s"], 1),
        "build_cpu_s": round(growth.done["cpu_s"], 1),
        "vectors_a_second": round(vectors / growth.done["s"]),
        "measure_s": round(ready - begun, 1),
        "save_s": round(time.perf_counter() - ready, 1),
        "peak_memory_mb": max(growth.done["peak_memory_mb"], megabytes(memory("VmHWM"))),
        "file_mb": megabytes(path.stat().st_size),
        "graph_mb": megabytes(index.graph.content.nbytes),
        "connectivity": graph.CONNECTIVITY,
        "expansion_add": graph.EXPANSION_ADD,
        "sampled_recall": round(index.graph.facts.recall, 4),
        "expansion": index.graph.facts.expansion,
    }


def memory(name: str) -> int:
    """Return this process's memory in bytes: VmHWM (peak) or RssAnon (without pages of files)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def searched(path: Path, vectors: int, width: int) -> dict[str, Any]:
    """Search a saved index mapped into memory; return times, recall and memory."""
    started = time.perf_counter()
    index = ImageIndex.load(path, mmap=True)
    opened = time.perf_counter()
    made = Pictures(vectors, width)
    generator = np.random.default_rng([2, vectors])
    kinds = {
        "pictures": made.pictures(generator, QUERIES), "texts": made.texts(generator, QUERIES)
    }  # fmt: skip
    begun = time.perf_counter()
    index.top(kinds["pictures"][0], K)
    figures: dict[str, Any] = {
        "open_s": round(opened - started, 3),
        "first_search_s": round(time.perf_counter() - begun, 3),
        "private_memory_mb": megabytes(memory("RssAnon")),
    }
    assert index.graph is not None
    for expansion in sorted({index.graph.facts.expansion, 64, 128, 256, 512, 1024}):
        for kind, queries in kinds.items():
            own = f"{kind}, {expansion} candidates"
            if own not in figures:
                figures[own] = with_expansion(index, expansion, queries)
    figures["peak_memory_mb"] = megabytes(memory("VmHWM"))
    figures["exact_search_ms"] = round(1000 * exact_seconds(index, kinds["pictures"][:3]), 1)
    return figures


def exact_seconds(index: ImageIndex, queries: Features) -> float:
    times = []
    for query in queries:
        begun = time.perf_counter()
        index.top(query, K, exact=True)
        times.append(time.perf_counter() - begun)
    return min(times)


EXACT: dict[int, list[Any]] = {}


def with_expansion(index: ImageIndex, expansion: int, queries: Features) -> dict[str, float]:
    assert index.graph is not None
    tried = index.graph.with_facts(replace(index.graph.facts, expansion=expansion))
    index = replace(index, graph=tried)
    if id(queries) not in EXACT:
        EXACT[id(queries)] = nearest_rows(queries[:JUDGED], index.features, index.scales, K)
    shares = []
    times = []
    processor = time.process_time()
    for number, query in enumerate(queries):
        begun = time.perf_counter()
        hits = index.top(query, K)
        times.append(time.perf_counter() - begun)
        if number < JUDGED:
            least = EXACT[id(queries)][number].scores[-1] - ROUNDING
            shares.append(sum(hit.score >= least for hit in hits) / K)
    processor = time.process_time() - processor
    return {
        "recall_at_10": round(float(np.mean(shares)), 4),
        "median_ms": round(1000 * float(np.median(times)), 2),
        "p95_ms": round(1000 * float(np.quantile(times, 0.95)), 2),
        "cpu_ms": round(1000 * processor / len(queries), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, default=Path("runs/index-scale"))
    parser.add_argument("--out", type=Path, required=True, help="keeps its runs of other sizes")
    parser.add_argument("--search-only", type=Path, metavar="INDEX", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    vectors, width = arguments.vectors, arguments.dimensions
    if arguments.search_only is not None:
        print(json.dumps(searched(arguments.search_only, vectors, width)))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    figures = build(vectors, width, arguments.threads, arguments.work)
    print(json.dumps(figures, indent=1), flush=True)
    index = arguments.work / f"index-{vectors}.npz"
    command = [
        sys.executable, __file__, "--vectors", str(vectors), "--dimensions", str(width),
        "--out", str(arguments.out), "--search-only", str(index),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures["search"] = json.loads(done.stdout)
    runs = {}
    if arguments.out.exists():
        runs = json.loads(arguments.out.read_text(encoding="utf-8"))["runs"]
    runs[f"{vectors}"] = figures
    result = {"machine": machine_facts(), "runs": runs}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures["search"], indent=1))


if __name__ == "__main__":
    main()
