"""Replay the golden vectors of engine files.

It gets the inputs as an application does: pictures through the bundle's preprocessing, ids of
texts from the manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.golden import decode_embeddings, decode_image
from tinyclip_edge.runtime.session import full_batch
from tinyclip_export.engines.towers import engine_towers
from tinyclip_export.layout import TOWER_IO, InputForm


def min_cosine(folder: Path, precision: str) -> float:
    """Return the minimum cosine between recorded embeddings and those of the files now."""
    clip = EdgeCLIP.load(folder)
    entry, golden = clip.manifest.extras["engine"], clip.manifest.golden
    form = InputForm(entry["inputs"]["batch"], pad_id=entry["inputs"]["pad_id"])
    paths = {tower: folder / path for tower, path in entry["files"][precision].items()}
    files = engine_towers(
        entry["name"], precision, paths, form=form, context=clip.manifest.context_length
    )
    inputs: dict[str, list[npt.NDArray[Any]]] = {
        "image": [clip.preprocess(decode_image(each["png"]))[None] for each in golden["images"]],
        "text": [np.array([each["input_ids"]], np.int64) for each in golden["texts"]],
    }
    cosines = []
    for tower, rows in inputs.items():
        session, name = files.open(tower), TOWER_IO[tower].input_name
        features = [session.run(None, {name: full_batch(row, form.batch)})[0][0] for row in rows]
        recorded = decode_embeddings(entry["golden"][precision][tower], len(rows))
        cosines += [float(one @ other) for one, other in zip(features, recorded, strict=True)]
    return min(cosines)
