"""Cached features of teachers, image indexes, and preprocessing configurations."""

from __future__ import annotations

import json
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from driver import Reader
from hostile import HOSTILE_JSON
from model_mutations import changed_safetensors
from mutations import changed_bytes, changed_json, changed_zip
from PIL import Image

from tinyclip_edge.collection.journal import IndexedFile, Journal
from tinyclip_edge.data.feature_part import BrokenPartError, PartFeatures, read_part, write_part
from tinyclip_edge.data.feature_store import FeatureStore
from tinyclip_edge.data.features import TeacherFeatures
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.index_file import FILE_STAMP, SkippedImage
from tinyclip_edge.runtime.preprocess import Preprocess

RECIPE = {"recipe": "r"}
STORE = {"teachers": [{"name": "a", "weights": "b"}], "views": {"count": 2, "scale": [0.9, 1.0]}}
PICTURE = Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(9, 12, 3))
OPEN_CLIP = {
    "size": [8, 8], "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
    "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
}  # fmt: skip
HUGGING_FACE = {
    "do_center_crop": True, "do_resize": True, "size": {"shortest_edge": 8}, "resample": 3,
    "crop_size": {"height": 8, "width": 8}, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def parts(folder: Path) -> list[bytes]:
    part = PartFeatures(
        image=np.ones((2, 1, 4), np.float16),
        seeds=np.zeros((2, 1), np.int64),
        samples=np.zeros((2, 16), np.uint8),
        text=np.ones((1, 4), np.float16),
        captions=np.zeros((1, 16), np.uint8),
    )
    write_part(folder / "part", RECIPE, part)
    return [(folder / "part").read_bytes()]


def read_one_part(folder: Path, content: bytes) -> None:
    (folder / "part").write_bytes(content)
    read_part(folder / "part", RECIPE)


def stores(folder: Path) -> list[bytes]:
    FeatureStore(folder / "store", STORE).create()
    return [(folder / "store/features.json").read_bytes()]


def open_store(folder: Path, content: bytes) -> None:
    (folder / "features.json").write_bytes(content)
    FeatureStore(folder, STORE)


def teacher_features() -> TeacherFeatures:
    return TeacherFeatures("key", 3, 2)


def teacher_files(folder: Path) -> list[bytes]:
    features = teacher_features()
    features.image.set_rows(np.array([0, 2]), torch.ones(2, 4))
    features.text.set_rows(np.array([1]), torch.ones(1, 4))
    features.save(folder / "features")
    return [(folder / "features").read_bytes()]


def read_teacher_file(folder: Path, content: bytes) -> None:
    (folder / "features").write_bytes(content)
    features = teacher_features()
    features.load(folder / "features")


def indexes(folder: Path) -> list[bytes]:
    example = ImageIndex(("a", "b"), np.eye(2, dtype=np.float32), "x-int8")
    small = example.compressed(dimensions=1)
    full = replace(
        example,
        metadata=({"album": "a"}, {}),
        errors=(SkippedImage("c", "broken"),),
        files=np.zeros(2, FILE_STAMP),
        bundle="bundles/a",
    )
    vectors = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    graph = replace(example, keys=tuple("abcdefghijklmnopqrst"), features=vectors)
    return [
        index.save(folder / f"{number}.npz").read_bytes()
        for number, index in enumerate((example, small, full, graph.approximate(minimum=0)))
    ]


def search_index(folder: Path, content: bytes) -> None:
    (folder / "a.npz").write_bytes(content)
    for mmap in (False, True):
        index = ImageIndex.load(folder / "a.npz", mmap=mmap)
        index.filter(album="a")[:1].top(np.array([1, 0], np.float32), 3)


def journals(folder: Path) -> list[bytes]:
    entry = IndexedFile(10, 20, bytes(16), np.array([127, 5], np.int8), 0.5)
    with Journal(folder / "journal", "model", 2) as journal:
        journal.write({"a": entry, "b": entry}, ["c"])
        journal.write({"d": entry}, ["a"])
        return [journal.path.read_bytes()]


def changed_journal(rng: random.Random, valid: bytes) -> bytes:
    """A journal of which one record has other bytes and a right checksum; or its bytes."""
    if rng.random() < 0.2:
        return changed_bytes(rng, valid)
    records, at = [], 0
    while at < len(valid):
        length = int.from_bytes(valid[at : at + 4], "little")
        records.append(valid[at + 8 : at + 8 + length])
        at += 8 + length
    struck = rng.randrange(len(records))
    if rng.random() < 0.5:
        records[struck] = changed_bytes(rng, records[struck])
    else:
        count = int.from_bytes(records[struck][:4], "little")
        text = changed_json(rng, records[struck][4 : 4 + count])
        records[struck] = struct.pack("<I", len(text)) + text + records[struck][4 + count :]
    return b"".join(struct.pack("<II", len(r), zlib.crc32(r)) + r for r in records)


def open_journal(folder: Path, content: bytes) -> None:
    (folder / "journal").write_bytes(content)
    with Journal(folder / "journal", "model", 2) as journal:
        journal.write({}, ["e"])


def preprocess(folder: Path, content: bytes) -> None:
    from tinyclip_edge.errors import ModelError
    from tinyclip_edge.json_text import read_json_file

    (folder / "p.json").write_bytes(content)
    Preprocess.from_config(read_json_file(folder / "p.json", ModelError))(PICTURE)


READERS = (
    Reader("feature part", parts, changed_safetensors, read_one_part, others=(BrokenPartError,)),
    Reader("feature cache", stores, changed_json, open_store, HOSTILE_JSON),
    Reader("teacher features", teacher_files, changed_safetensors, read_teacher_file),
    Reader("index", indexes, changed_zip, search_index),
    Reader("journal", journals, changed_journal, open_journal),
    Reader(
        "preprocessing",
        lambda _: [json.dumps(one).encode() for one in (OPEN_CLIP, HUGGING_FACE)],
        changed_json,
        preprocess,
        HOSTILE_JSON,
    ),
)
