"""What improves files of few bits: calibrated rounding, channel compensation, token tables.

Every form of a student's two towers is compared with its fp32 file on pairs that it is not
calibrated on: those of starter:val, the unseen style of the same names, and names of starter:train
(on which the student was trained). Forms with calibration use three samples of 512 other names;
onnxruntime's GPTQ and forms without calibration are measured once. A run goes on with the forms
that its result file has.

    python benchmarks/fewer_bits.py runs/quickstart --out benchmarks/results/fewer-bits.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fewer_bits_forms import FORMS, ONCE, Towers, apply_channel_compensation
from machine import machine_facts

COMPENSATED = " + channels"  # suffix of a form's name
BATCH = 32
TRAIN = "train"
HELD_OUT = {"val": "starter:val", "style": "starter:test_style"}


class Pairs:
    """Inputs of both towers, from which rows can be selected."""

    def __init__(self, pixels: np.ndarray, ids: np.ndarray, eot: int) -> None:
        self.pixels, self.ids, self._eot = pixels, ids, eot

    def select(self, rows: np.ndarray) -> Pairs:
        """Return only these pairs."""
        return Pairs(self.pixels[rows], self.ids[rows], self._eot)

    def batches(self, tower: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows and inputs; texts of one length share a batch, without padding."""
        if tower == "image":
            for start in range(0, len(self.pixels), BATCH):
                rows = np.arange(start, min(start + BATCH, len(self.pixels)))
                yield rows, self.pixels[rows]
            return
        lengths = (self.ids == self._eot).argmax(axis=1) + 1
        for length in np.unique(lengths):
            places = np.flatnonzero(lengths == length)
            for start in range(0, len(places), BATCH):
                rows = places[start : start + BATCH]
                yield rows, self.ids[rows][:, :length].astype(np.int64)

    def feeds(self, tower: str) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches as feeds of a session."""
        name = "pixel_values" if tower == "image" else "input_ids"
        return ({name: batch} for _, batch in self.batches(tower))


def embeddings(path: Path, tower: str, pairs: Pairs) -> np.ndarray:
    """Return the embeddings of one tower's file."""
    import onnxruntime as ort

    from tinyclip_edge.runtime.session import session_options

    session = ort.InferenceSession(str(path), session_options(threads=1))
    name = session.get_inputs()[0].name
    rows: np.ndarray | None = None
    for places, batch in pairs.batches(tower):
        part = session.run(None, {name: batch})[0]
        if rows is None:
            rows = np.zeros((len(pairs.ids), part.shape[1]), np.float32)
        rows[places] = part
    assert rows is not None
    return rows


def compared(reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """Return lost points of recall@1, their standard error, share of equal first hits, cosines."""
    first = (reference["text"] @ reference["image"].T).argmax(axis=1)
    now = (other["text"] @ other["image"].T).argmax(axis=1)
    right = np.arange(len(first))
    lost = 100.0 * ((first == right).astype(float) - (now == right))
    cosines = {tower: (reference[tower] * other[tower]).sum(axis=1) for tower in reference}
    return {
        "drop": round(float(lost.mean()), 3),
        "stderr": round(float(lost.std() / len(lost) ** 0.5), 3),
        "same_top1": round(100.0 * float((first == now).mean()), 2),
        **{f"{tower}_cosine": round(float(rows.mean()), 5) for tower, rows in cosines.items()},
    }


def starter_pairs(clip: Any) -> dict[str, Pairs]:  # noqa: ANN401
    """Return the pairs of starter:val and the unseen style, and one pair for each training name."""
    from tinyclip_edge.evaluation import evaluation_set
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split
    from tinyclip_export.verification.embeddings import pixel_rows

    images: dict[str, Any] = {}
    for sample in read_split(kit_path(), "train"):
        images.setdefault(sample.captions[0], sample.webp)
    sets: dict[str, tuple[list[Any], Any]] = {TRAIN: (list(images.values()), list(images))}
    for key, name in HELD_OUT.items():
        held_out = evaluation_set(name, limit=10_000)
        sets[key] = list(held_out.images), held_out.texts
    eot = int(clip.tokenizer(["a"])[0].max())
    found = {}
    for key, (pictures, texts) in sets.items():
        parts = [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]
        pixels = np.concatenate([pixel_rows(clip, part) for part in parts])
        found[key] = Pairs(pixels, clip.tokenizer(list(texts)).numpy(), eot)
    return found


def both(files: dict[str, Path], pairs: Pairs) -> dict[str, np.ndarray]:
    """Return the embeddings of both towers."""
    return {tower: embeddings(path, tower, pairs) for tower, path in files.items()}


def write_form(name: str, towers: Towers, calibration: Pairs, folder: Path) -> dict[str, Path]:
    """Write both files of a form."""
    plain = name.removesuffix(COMPENSATED)
    files = {tower: folder / f"{tower}.onnx" for tower in ("image", "text")}
    for tower, path in files.items():
        with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime's GPTQ draws a bar
            FORMS[plain](towers, tower, calibration, path)
        if plain != name:
            apply_channel_compensation(towers.sources[tower], path, calibration, tower)
    return files


def compare_forms(
    towers: Towers,
    arguments: argparse.Namespace,
    pairs: dict[str, Pairs],
    rows: dict[str, Any],
    write: Callable[[], None],
) -> None:
    """Add all forms with all seeds to the rows; `write` is called after each one."""
    training = pairs[TRAIN]
    order = np.random.default_rng(0).permutation(len(training.ids))
    others, rest = order[: arguments.others], order[arguments.others :]
    sets = {**{key: pairs[key] for key in HELD_OUT}, TRAIN: training.select(others)}
    references = {key: both(towers.sources, each) for key, each in sets.items()}
    compensated = (name + COMPENSATED for name in ("q4 nearest", "q4 gptq", "static int8"))
    names = [*(name for name in FORMS if name not in ONCE), *compensated, *ONCE]
    for seed in range(arguments.seeds):
        chosen = np.random.default_rng(seed).permutation(rest)[: arguments.calibration]
        calibration = training.select(chosen)
        for name in names:
            if (arguments.only and name not in arguments.only) or (seed > 0 and name in ONCE):
                continue
            if len(rows.get(name, ())) > seed:
                continue
            with tempfile.TemporaryDirectory() as folder:
                files = write_form(name, towers, calibration, Path(folder))
                row: dict[str, Any] = {"bytes": sum(p.stat().st_size for p in files.values())}
                for key, each in sets.items():
                    row[key] = compared(references[key], both(files, each))
            rows.setdefault(name, []).append(row)
            print(name, seed, row, flush=True)
            write()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="run or model folder of a student of the starter kit")
    parser.add_argument("--only", action="append", help="a form; repeat for several")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--others", type=int, default=1000, help="starter:train names to compare")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    from tinyclip_edge.models import load_clip

    clip = load_clip(arguments.model, allow_random=True)
    pairs = starter_pairs(clip)
    facts = {
        "model": Path(arguments.model).name,
        "pairs": {**{key: len(pairs[key].ids) for key in HELD_OUT}, TRAIN: arguments.others},
        "calibration": arguments.calibration,
    }
    rows: dict[str, Any] = {}
    if arguments.out.exists():
        earlier = json.loads(arguments.out.read_text())
        if any(earlier.get(key) != value for key, value in facts.items()):
            raise SystemExit(f"{arguments.out} has results of other pairs; delete it")
        rows = earlier["forms"]

    def write() -> None:
        result = {"machine": machine_facts(), **facts, "forms": rows}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        compare_forms(Towers(clip, Path(folder)), arguments, pairs, rows, write)


if __name__ == "__main__":
    main()
