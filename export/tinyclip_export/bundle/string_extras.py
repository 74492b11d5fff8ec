"""Towers from strings and encoded pictures, with their golden vectors as files."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tinyclip_edge.precisions import replay_cosine
from tinyclip_export.bundle.encoded_image_tower import encoded_pictures, write_encoded_towers
from tinyclip_export.bundle.string_text_tower import write_string_towers
from tinyclip_export.bundle.tokenizer_graph import StringTower, expected_ids
from tinyclip_export.bundle.uint8_image_tower import MIN_COSINE, runtime_preprocess
from tinyclip_export.layout import IMAGE_IO, TEXT_IO
from tinyclip_export.verification.embeddings import TowerFiles
from tinyclip_export.verification.golden import TEXTS

if TYPE_CHECKING:
    from tinyclip_edge.models.tokenizer_files import SpecialTokens
    from tinyclip_export.export_job import ExportJob

GOLDEN = "golden"


def write_string_extras(
    job: ExportJob, files: Sequence[TowerFiles], special: SpecialTokens
) -> dict[str, Any]:
    """Write the towers of strings, with `embed_preprocessing` those of encoded pictures as well.

    ``golden/`` gets the texts and pictures with the embeddings of the bundle's towers. Returns
    entries of the manifest's ``extras``. Raises ValuesError for other ids or embeddings.
    """
    clip, folder = job.clip, job.folder
    parts = StringTower(
        folder / "tokenizer.json", special.start, special.end, clip.context_length, files[0].form
    )
    entries = {"strings": write_string_towers(folder, files, parts, job.pairs[1])}
    pictures = {}
    if job.settings.extras.embed_preprocessing:
        entries["encoded_pictures"] = write_encoded_towers(clip, folder, files)
        pictures = encoded_pictures()
    target = folder / GOLDEN
    target.mkdir()
    for name, content in pictures.items():
        (target / name).write_bytes(content)
    vectors = _vectors(job, files, parts, pictures)
    text = json.dumps(vectors, ensure_ascii=False) + "\n"
    (target / "vectors.json").write_text(text, encoding="utf-8")
    return entries


def _vectors(
    job: ExportJob, files: Sequence[TowerFiles], parts: StringTower, pictures: dict[str, bytes]
) -> dict[str, Any]:
    """Return texts with their ids, and the embeddings of both towers by precision."""
    from tinyclip_edge.runtime.tokenizer import ClipTokenizer

    clip = job.clip
    tokenizer = ClipTokenizer.from_file(parts.tokenizer, parts.context)
    ids = [expected_ids(tokenizer, parts, text) for text in TEXTS]
    preprocess = runtime_preprocess(clip)
    pixels = [preprocess(Image.open(io.BytesIO(content)))[None] for content in pictures.values()]
    rows = [np.array([row], np.int64) for row in ids]
    embeddings = {}
    for each in files:
        text, image = each.open("text"), each.open("image")
        embeddings[each.precision] = {
            "text": [_listed(text.run(None, {TEXT_IO.input_name: row})[0]) for row in rows],
            "image": [_listed(image.run(None, {IMAGE_IO.input_name: row})[0]) for row in pixels],
        }
    return {
        "texts": [{"text": text, "input_ids": row} for text, row in zip(TEXTS, ids, strict=True)],
        "pictures": list(pictures),
        "least_cosine": {
            each.precision: {"text": replay_cosine(each.precision), "image": MIN_COSINE}
            for each in files
        },
        "embeddings": embeddings,
    }


def _listed(embedding: Any) -> list[float]:  # noqa: ANN401 - float32 [1, D]
    return [round(float(value), 7) for value in embedding[0]]
