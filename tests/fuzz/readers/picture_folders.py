"""Folders of pictures with their index: what brings it up to date, and what shows results."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from driver import Reader
from mutations import changed_bytes, changed_file, changed_json, changed_zip, named, placed
from PIL import Image

from tiny_bundle import write_tiny_bundle
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.collection.copies import copy_pictures
from tinyclip_edge.collection.duplicates import duplicate_groups
from tinyclip_edge.collection.folder_index import index_folders
from tinyclip_edge.collection.journal import IndexedFile, Journal, journal_path
from tinyclip_edge.collection.results_page import write_results_page
from tinyclip_edge.runtime.index import ImageIndex

from .features import changed_journal

INDEX, PICTURE = "pictures.npz", "pictures/a.png"
JOURNAL = f".{INDEX}.journal"
TEXTS = ("keys.npy", "metadata.npy", "errors.npy", "bundle.npy")  # JSON inside


@cache
def opened(folder: Path) -> EdgeCLIP:
    return EdgeCLIP.load(write_tiny_bundle(folder / "bundle").folder)


def collection(folder: Path) -> Path:
    """Two pictures, their index, and an entry of a third that is still in the journal."""
    place = folder / "collection"
    if place.is_dir():
        return place
    clip = opened(folder)
    (place / "pictures").mkdir(parents=True)
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (9, 7), colour).save(place / f"pictures/{name}.png")
    index_folders(clip, [place / "pictures"], place / INDEX)
    index = ImageIndex.load(place / INDEX)
    index = ImageIndex(
        index.keys, index.features, index.model_hash, index.scales,
        metadata=({"album": "a"}, {"year": 2020}), files=index.files, bundle=index.bundle,
    )  # fmt: skip
    index.save(place / INDEX)
    width = clip.manifest.embedding_dim
    with Journal(journal_path(place / INDEX), clip.model_hash, width) as journal:
        entry = IndexedFile(1, 2, bytes(16), np.ones(width, np.int8), 0.1)
        journal.write({str(place / "pictures/gone.png"): entry}, [])
    return place


def changed_index(rng: random.Random, valid: bytes) -> bytes:
    """An index with one of its JSON texts changed and headers that fit; or its bytes."""
    if rng.random() < 0.4:
        return changed_zip(rng, valid)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as old, zipfile.ZipFile(buffer, "w") as new:
        struck = rng.choice([name for name in old.namelist() if name in TEXTS])
        for name in old.namelist():
            content = old.read(name)
            if name == struck:
                text = np.lib.format.read_array(io.BytesIO(content)).tobytes()
                array = io.BytesIO()
                changed = np.frombuffer(changed_json(rng, text), np.uint8)
                np.lib.format.write_array(array, changed)
                content = array.getvalue()
            new.writestr(name, content)
    return buffer.getvalue()


def files(folder: Path) -> list[bytes]:
    place = collection(folder)
    return [named(name, (place / name).read_bytes()) for name in KINDS]


def update(folder: Path, data: bytes) -> None:
    """Bring the index up to date, and show what a search returns in every way there is."""
    place, clip = collection(folder), opened(folder)
    originals = {name: (place / name).read_bytes() for name in (INDEX, JOURNAL)}
    try:
        with placed(place, data):
            if (place / INDEX).is_file():
                show(place, clip)
            index_folders(clip, [place / "pictures"], place / INDEX)
            show(place, clip)
    finally:
        for name, content in originals.items():
            (place / name).unlink(missing_ok=True)
            (place / name).write_bytes(content)


def show(place: Path, clip: EdgeCLIP) -> None:
    index = ImageIndex.load(place / INDEX, mmap=True)
    hits = clip.search("a cat", index, 5)
    json.dumps([[hit.key, hit.score, hit.metadata] for hit in hits])
    write_results_page(place / "page.html", "a cat", hits)
    copy_pictures([hit.key for hit in hits], place / "copies")
    shutil.rmtree(place / "copies")
    duplicate_groups(index)


KINDS = {INDEX: changed_index, JOURNAL: changed_journal, PICTURE: changed_bytes}
READERS = (Reader("folder index", files, changed_file(KINDS), update, weight=0.3),)
