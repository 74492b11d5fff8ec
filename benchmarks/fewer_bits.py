"""What improves files of few bits: calibrated rounding, channel compensation, token tables.

Every form of a student's two towers is compared with its fp32 file on held-out pairs: those of
starter:val, and names of starter:train that are not used for calibration (though the student was
trained on them). Forms with calibration use three samples of 512 other names; onnxruntime's GPTQ
and forms without calibration are measured once.

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


def starter_pairs(clip: Any) -> tuple[Pairs, Pairs]:  # noqa: ANN401
    """Return the pairs of starter:val, and one pair for each name of starter:train."""
    from tinyclip_edge.evaluation import evaluation_set
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split
    from tinyclip_export.verification.embeddings import pixel_rows

    images: dict[str, Any] = {}
    for sample in read_split(kit_path(), "train"):
        images.setdefault(sample.captions[0], sample.webp)
    held_out = evaluation_set("starter:val", limit=10_000)
    sets = ((list(held_out.images), held_out.texts), (list(images.values()), list(images)))
    eot = int(clip.tokenizer(["a"])[0].max())
    found = []
    for pictures, texts in sets:
        parts = [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]
        pixels = np.concatenate([pixel_rows(clip, part) for part in parts])
        found.append(Pairs(pixels, clip.tokenizer(list(texts)).numpy(), eot))
    return found[0], found[1]


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
    pairs: tuple[Pairs, Pairs],
    write: Callable[[dict[str, Any]], None],
) -> None:
    """Measure all forms with all seeds; `write` is called with the rows after each one."""
    held_out, training = pairs
    order = np.random.default_rng(0).permutation(len(training.ids))
    others, rest = order[: arguments.others], order[arguments.others :]
    sets = {"val": held_out, "train": training.select(others)}
    references = {key: both(towers.sources, each) for key, each in sets.items()}
    rows: dict[str, Any] = {}
    compensated = (name + COMPENSATED for name in ("q4 nearest", "q4 gptq", "static int8"))
    names = [*(name for name in FORMS if name not in ONCE), *compensated, *ONCE]
    for seed in range(arguments.seeds):
        chosen = np.random.default_rng(seed).permutation(rest)[: arguments.calibration]
        calibration = training.select(chosen)
        for name in names:
            if (arguments.only and name not in arguments.only) or (seed > 0 and name in ONCE):
                continue
            with tempfile.TemporaryDirectory() as folder:
                files = write_form(name, towers, calibration, Path(folder))
                row: dict[str, Any] = {"bytes": sum(p.stat().st_size for p in files.values())}
                for key, each in sets.items():
                    row[key] = compared(references[key], both(files, each))
            rows.setdefault(name, []).append(row)
            print(name, seed, row, flush=True)
            write(rows)


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
        "machine": machine_facts(),
        "pairs": {"val": len(pairs[0].ids), "train": arguments.others},
        "calibration": arguments.calibration,
    }

    def write(rows: dict[str, Any]) -> None:
        arguments.out.write_text(json.dumps({**facts, "forms": rows}, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        compare_forms(Towers(clip, Path(folder)), arguments, pairs, write)


if __name__ == "__main__":
    main()
