"""Our bundles and other ways to run a CLIP on a CPU: times of one interleaved run, and accuracy.

Contenders: bundles (fp32, int8 of this processor's target and without one, q4, w8), PyTorch eager
and compiled, transformers.exporters, optimum-cli, onnxruntime's quantize_dynamic, OpenVINO (fp32,
int8 by NNCF) and LiteRT (fp32, dynamic int8), each converted with its defaults. Each runs in its
own process, with its own environment where needed, and embeds what it receives over a pipe. They
take turns, one call at a time. The time is that of the call, without the pipe.

    python benchmarks/against_peers.py runs/quickstart TinyCLIP-ViT-8M-16-Text-3M \\
      --out benchmarks/results/against-peers.json

A model given by name has random weights: its times count, its accuracy says little. All texts have
8 tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from machine import machine_facts
from peer_models import HERE, TOKENS, Contender, Inputs, contenders, write_sources
from result_tables.exported import OURS, peers
from written import write_result

REFERENCE = "torch eager"
WARM_UP = 3


class Worker:
    """A contender's process."""

    def __init__(self, contender: Contender, threads: int) -> None:
        """Raise EOFError with the last line of its messages if it does not start."""
        words = (contender.runtime, contender.image, contender.text, str(threads))
        command = [str(contender.python), str(HERE / "peer_worker.py"), *words]
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - stays open like the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages
        )
        self._answer()

    def __call__(self, tower: str, batch: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Return the embeddings ``[B, D]`` and the seconds of the call, wall and cpu."""
        about = {"tower": tower, "dtype": str(batch.dtype), "shape": list(batch.shape)}
        stream = cast("IO[bytes]", self._process.stdin)
        stream.write(json.dumps(about).encode() + b"\n" + batch.tobytes())
        stream.flush()
        return self._answer()

    def _answer(self) -> tuple[np.ndarray, dict[str, float]]:
        stream = cast("IO[bytes]", self._process.stdout)
        line = stream.readline()
        if not line:
            self._messages.seek(0)
            lines = self._messages.read().decode(errors="replace").strip().splitlines()
            raise EOFError(lines[-1][:300] if lines else "it ended")
        about = json.loads(line)
        shape = about.pop("shape")
        content = stream.read(4 * int(np.prod(shape)))
        return np.frombuffer(content, np.float32).reshape(shape), about

    def close(self) -> None:
        """End the process."""
        cast("IO[bytes]", self._process.stdin).close()
        self._process.wait(timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="runs, folders, or names with random weights")
    parser.add_argument("--work", type=Path, default=Path("runs/against-peers"))
    parser.add_argument("--envs", type=Path, default=Path("runs/against-peers/environments"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--limit", type=int, default=200, help="pictures and texts for accuracy")
    parser.add_argument("--only", nargs="+", help="prefixes of the contenders' names")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine_facts(), "threads": options.threads, "models": {}}
    for model in options.models:
        results["models"][Path(model).name] = compare(model, options)
        write_result(results, options.out)
    for name, result in results["models"].items():
        print(f"\n{name}\n\n{peers(result)}")


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return time and accuracy of all contenders for a model, and why some are missing."""
    work = options.work.resolve() / Path(model).name
    work.mkdir(parents=True, exist_ok=True)
    inputs = write_sources(model, work, options.limit)
    chosen, missing = contenders(work, options.envs.resolve())
    if options.only:
        chosen = [c for c in chosen if c.name.startswith((*options.only, REFERENCE, OURS))]
    workers: dict[str, Worker] = {}
    try:
        for contender in chosen:
            try:
                workers[contender.name] = Worker(contender, options.threads)
                for tower, rows in (("image", inputs.pixels), ("text", inputs.ids)):
                    workers[contender.name](tower, rows[:1])
            except (EOFError, BrokenPipeError) as error:
                workers.pop(contender.name, None)
                missing[contender.name] = str(error)
        before = machine_facts()["load"]
        times = interleaved(workers, inputs, options.rounds)
        embedded = {name: _embed(worker, inputs) for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    sizes = {contender.name: contender.bytes for contender in chosen}
    return {
        "rounds": options.rounds,
        "tokens": TOKENS,
        "pictures": len(inputs.pixels),
        "texts": len(inputs.ids),
        "load": [before, machine_facts()["load"]],
        "missing": missing,
        "contenders": {
            name: {
                "ms": times[name],
                "bytes": sizes[name],
                **agreement(embedded[REFERENCE], embedded[name]),
            }
            for name in workers
        },
    }


def interleaved(workers: dict[str, Worker], inputs: Inputs, rounds: int) -> dict[str, Any]:
    """Time one call of each worker per round, in turns; milliseconds by tower."""
    seconds: dict[str, Any] = {
        name: {tower: {"wall": [], "cpu": []} for tower in ("image", "text")} for name in workers
    }
    order = list(workers)
    for round_number in range(-WARM_UP, rounds):
        for tower, rows in (("image", inputs.pixels), ("text", inputs.ids)):
            row = rows[round_number % len(rows)][None]
            for name in order:
                time.sleep(0.002)  # idle threads of another worker may spin that long
                _, took = workers[name](tower, row)
                if round_number >= 0:
                    for clock, values in seconds[name][tower].items():
                        values.append(1e3 * took[clock])
        order.append(order.pop(0))
    return {
        name: {
            tower: {
                "median": float(np.median(clocks["wall"])),
                "min": min(clocks["wall"]),
                "cpu": float(np.median(clocks["cpu"])),
            }
            for tower, clocks in towers.items()
        }
        for name, towers in seconds.items()
    }


def _embed(worker: Worker, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return image and text embeddings of unit norm, one input at a time."""
    both = []
    for tower, rows in (("image", inputs.pixels), ("text", inputs.ids)):
        values = np.concatenate([worker(tower, row[None])[0] for row in rows])
        both.append(values / np.linalg.norm(values, axis=1, keepdims=True))
    return both[0], both[1]


def agreement(
    reference: tuple[np.ndarray, np.ndarray], both: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """Compare embeddings ``[N, D]``, ``[M, D]`` with the reference's.

    `same_label`: share of pictures for which both choose the same text.
    """
    image, text = ((a * b).sum(axis=1) for a, b in zip(reference, both, strict=True))
    labels = [(images @ texts.T).argmax(axis=1) for images, texts in (reference, both)]
    return {
        "image_cosine": float(image.mean()),
        "image_cosine_min": float(image.min()),
        "text_cosine": float(text.mean()),
        "text_cosine_min": float(text.min()),
        "same_label": float((labels[0] == labels[1]).mean()),
    }


if __name__ == "__main__":
    main()
