"""Cached features of teachers, image indexes, and preprocessing configurations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from driver import Reader
from hostile import HOSTILE_JSON
from model_mutations import changed_safetensors
from mutations import changed_json, changed_zip
from PIL import Image

from tinyclip_edge.data.feature_part import BrokenPartError, PartFeatures, read_part, write_part
from tinyclip_edge.data.feature_store import FeatureStore
from tinyclip_edge.data.features import TeacherFeatures
from tinyclip_edge.runtime.index import ImageIndex
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
    return [
        index.save(folder / f"{number}.npz").read_bytes()
        for number, index in enumerate((example, small))
    ]


def search_index(folder: Path, content: bytes) -> None:
    (folder / "a.npz").write_bytes(content)
    ImageIndex.load(folder / "a.npz").top(np.array([1, 0], np.float32), 3)


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
    Reader(
        "preprocessing",
        lambda _: [json.dumps(one).encode() for one in (OPEN_CLIP, HUGGING_FACE)],
        changed_json,
        preprocess,
        HOSTILE_JSON,
    ),
)
