"""Times of a bundle's files and of the same model's fp32 towers, in turns in one process.

Files for onnxruntime are opened with the runtime's options, other files in their own engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from export_latency import interleaved

TEXT = "a photo of a red bicycle"  # 8 tokens; padded if a target fixes the length
TOWERS = ("image", "text")
PAUSE = 0.002  # seconds before a call: idle threads of another engine spin that long


def bundle_times(
    folder: Path, baseline: Path, *, rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Return, by precision and tower, ``ms`` and how many times faster than fp32 that is.

    `baseline` is a bundle of the same model with fp32 and free shapes. ``times_faster`` compares
    medians, ``times_faster_least`` minima, ``times_faster_cpu`` processor times.
    """
    rows: dict[str, dict[str, Any]] = {}
    for tower in TOWERS:
        calls = {"fp32 of the baseline": _call(baseline, "fp32", tower, threads)}
        for name, call in _calls(folder, tower, threads):
            calls[name] = call
        times = interleaved(calls, rounds, PAUSE)
        reference = times.pop("fp32 of the baseline")
        for name, ms in times.items():
            rows.setdefault(name, {})[tower] = {
                "ms": ms,
                "times_faster": round(reference["median"] / ms["median"], 3),
                "times_faster_least": round(reference["min"] / ms["min"], 3),
                "times_faster_cpu": round(reference["cpu"] / ms["cpu"], 3),
            }
    return rows


def cannot_run_here(target: str) -> str | None:
    """Return why times on this machine say nothing about a target; None if they do."""
    from tinyclip_edge.runtime.cpu import processor
    from tinyclip_edge.targets import TARGETS

    entry, kind = TARGETS[target], processor()
    if "cpu" not in entry.devices:
        return f"for {' or '.join(entry.devices)}, not for a processor"
    families = {each.partition("-")[0] for each in entry.processors}
    if families and (kind or "").partition("-")[0] not in families:
        return f"for {' and '.join(sorted(families))}, and this processor is {kind}"
    return None


def _calls(folder: Path, tower: str, threads: int) -> Iterator[tuple[str, Callable[[], object]]]:
    from tinyclip_edge.runtime.bundle import Manifest

    manifest = Manifest.read(folder)
    for precision in manifest.precisions():
        yield precision, _call(folder, precision, tower, threads)
    entry = manifest.extras.get("engine")
    if entry is None:
        return
    for precision in entry["files"]:
        yield f"{entry['name']} {precision}", _engine_call(folder, precision, tower, threads)


def _call(folder: Path, precision: str, tower: str, threads: int) -> Callable[[], object]:
    from tinyclip_edge.runtime.bundle import Manifest, bundle_file
    from tinyclip_edge.runtime.session import OnnxSession

    manifest = Manifest.read(folder)
    path = bundle_file(folder, manifest.tower_path(tower, precision))
    precise = manifest.saturates(tower, precision)
    graph = OnnxSession(path, threads=threads, precise_int8=precise)
    name, value = ("pixel_values" if tower == "image" else "input_ids"), _input(folder, tower)
    return lambda: graph.run(f"{tower}_embeds", **{name: value})


def _engine_call(folder: Path, precision: str, tower: str, threads: int) -> Callable[[], object]:
    from tinyclip_edge.runtime.bundle import Manifest
    from tinyclip_export.engines.replay import engine_files

    files = engine_files(folder, Manifest.read(folder), precision)
    session = files.open(tower, threads=threads)
    feed = {"": _input(folder, tower)}
    return lambda: session.run(None, feed)


def _input(folder: Path, tower: str) -> np.ndarray:
    """Return one random picture, or the ids of a short text, as input of the bundle's towers."""
    from tinyclip_edge import EdgeCLIP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the target may not be this machine's
        clip = EdgeCLIP.load(folder, verify=False)
    if tower == "text":
        return np.array([clip.token_ids(TEXT)], np.int64)
    size = clip.manifest.image_size
    return np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
