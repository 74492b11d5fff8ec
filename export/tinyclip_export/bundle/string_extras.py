"""Towers for strings and encoded pictures, with their golden vectors as files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_edge.precisions import replay_cosine
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.bundle.encoded_image_tower import encoded_pictures, write_encoded_towers
from tinyclip_export.bundle.golden_folder import FOLDER, VECTORS
from tinyclip_export.bundle.string_text_tower import write_string_towers
from tinyclip_export.bundle.tokenizer_graph import StringTower, expected_ids
from tinyclip_export.bundle.uint8_image_tower import MIN_COSINE, runtime_preprocess
from tinyclip_export.layout import TOWER_IO
from tinyclip_export.verification.embeddings import Session, TowerFiles
from tinyclip_export.verification.golden import TEXTS

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.models.tokenizer_files import SpecialTokens
    from tinyclip_export.export_job import ExportJob


def write_string_extras(
    job: ExportJob, files: Sequence[TowerFiles], special: SpecialTokens
) -> dict[str, Any]:
    """Write the towers for strings and, with `embed_preprocessing`, for encoded pictures.

    ``golden/`` gets the texts and pictures with the embeddings of the bundle's towers. Returns
    entries of the manifest's ``extras``. Raises ValuesError if ids or embeddings differ.
    """
    clip, folder = job.clip, job.folder
    parts = StringTower(
        folder / "tokenizer.json", special.start, special.end, clip.context_length, files[0].form
    )
    with_pictures = job.settings.extras.embed_preprocessing
    pictures = encoded_pictures() if with_pictures else {}
    ids = _golden_ids(parts)
    inputs = {
        "text": [np.array([each], np.int64) for each in ids],
        "image": _pixels(clip, pictures),
    }
    vectors = {each.precision: _embeddings(each, inputs) for each in files}
    expected = {precision: each["text"] for precision, each in vectors.items()}
    entries = {"strings": write_string_towers(folder, files, parts, job.pairs[1], expected)}
    if with_pictures:
        expected = {precision: each["image"] for precision, each in vectors.items()}
        entries["encoded_pictures"] = write_encoded_towers(clip, folder, files, expected)
    target = folder / FOLDER
    target.mkdir()
    for name, content in pictures.items():
        (target / name).write_bytes(content)
    text = json.dumps(_table(ids, pictures, vectors), ensure_ascii=False) + "\n"
    (folder / VECTORS).write_text(text, encoding="utf-8")
    return entries


def _pixels(clip: LoadedClip, pictures: Mapping[str, bytes]) -> list[npt.NDArray[Any]]:
    """Return each picture as the bundle's tower takes it, float32 ``[1, 3, H, W]``."""
    preprocess = runtime_preprocess(clip)
    return [preprocess(Image.open(io.BytesIO(each)))[None] for each in pictures.values()]


def _embeddings(
    files: TowerFiles, inputs: Mapping[str, Sequence[npt.NDArray[Any]]]
) -> dict[str, Features]:
    """Return the embeddings ``[N, D]`` of golden texts and pictures, by tower of the bundle."""
    return {
        tower: _run(files.open(tower), TOWER_IO[tower].input_name, rows)
        for tower, rows in inputs.items()
        if rows
    }


def _run(session: Session, name: str, rows: Sequence[npt.NDArray[Any]]) -> Features:
    return np.concatenate([session.run(None, {name: row})[0] for row in rows])


def _golden_ids(parts: StringTower) -> list[list[int]]:
    from tinyclip_edge.runtime.tokenizer import ClipTokenizer

    tokenizer = ClipTokenizer.from_file(parts.tokenizer, parts.context)
    return [expected_ids(tokenizer, parts, text) for text in TEXTS]


def _table(
    ids: Sequence[Sequence[int]],
    pictures: Mapping[str, bytes],
    vectors: Mapping[str, Mapping[str, Features]],
) -> dict[str, Any]:
    """Return texts with their ids, names of pictures, and the embeddings by precision."""
    return {
        "texts": [
            {"text": text, "input_ids": text_ids} for text, text_ids in zip(TEXTS, ids, strict=True)
        ],
        "pictures": list(pictures),
        "least_cosine": {
            precision: {"text": replay_cosine(precision), "image": MIN_COSINE}
            for precision in vectors
        },
        "embeddings": {
            precision: {
                tower: [[round(float(v), 7) for v in row] for row in towers.get(tower, ())]
                for tower in ("text", "image")
            }
            for precision, towers in vectors.items()
        },
    }
