"""Lists of class names, labels and templates, and the pictures themselves."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import timm.data.imagenet_info  # noqa: F401 - torch's memory is no input's
from driver import Reader
from hostile import HOSTILE_BYTES
from mutations import changed_bytes
from PIL import Image, features

from tinyclip_edge.data.corpus import corpus_lines
from tinyclip_edge.evaluation.class_images import ANNOTATIONS
from tinyclip_edge.evaluation.sets import evaluation_set
from tinyclip_edge.paths import read_lines
from tinyclip_edge.runtime.preprocess import Preprocess

PICTURE = Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(9, 12, 3))
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
NEWER = ("AVIF",) if features.check("avif") else ()  # since Pillow 11.3
CLASSES = ("n01440764", "n01443537")
TEXTS = (*HOSTILE_BYTES, b"\t" * 9, b"\t\n" * 20_000, b"a\t\xff\n", b"\xf0\x9f\n\n\na")


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind)
    return buffer.getvalue()


def class_folder(folder: Path) -> Path:
    """Two class folders of one picture each."""
    root = folder / "classes"
    for name in CLASSES:
        (root / name).mkdir(parents=True, exist_ok=True)
        if not (root / name / "a.png").exists():
            (root / name / "a.png").write_bytes(encoded("PNG"))
    return root


def classes(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        root = class_folder(folder)
        (root / name).write_bytes(content)
        evaluation_set(str(root))

    return read


def annotated(folder: Path, content: bytes) -> None:
    root = folder / "val"
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "images/a.png").write_bytes(encoded("PNG"))
    (root / ANNOTATIONS).write_bytes(content)
    evaluation_set(str(root))


def corpus(folder: Path, content: bytes) -> None:
    """The texts that a student's vocabulary is chosen by."""
    (folder / "corpus.txt").write_bytes(content)
    corpus_lines(str(folder / "corpus.txt"))


def labels(folder: Path, content: bytes) -> None:
    (folder / "labels.txt").write_bytes(content)
    read_lines(folder / "labels.txt", "labels")


def decode(_: Path, content: bytes) -> None:
    with warnings.catch_warnings():  # Pillow's, of metadata
        warnings.simplefilter("ignore")
        Preprocess(8, 8)(content)


TABLE = b"n01440764\ttench, Tinca tinca\nn01443537\tgoldfish\n"
READERS = (
    *(
        Reader(name, lambda _: [TABLE], changed_bytes, classes(name), TEXTS)
        for name in ("classes.tsv", "words.txt")
    ),
    Reader(
        "classnames.txt",
        lambda _: [b"tench\ngoldfish\n"],
        changed_bytes,
        classes("classnames.txt"),
        TEXTS,
    ),
    Reader(
        ANNOTATIONS,
        lambda _: [b"a.png\tn01440764\t0\t0\t9\t9\n"],
        changed_bytes,
        annotated,
        TEXTS,
    ),
    Reader("corpus", lambda _: ["a cat\né\n".encode()], changed_bytes, corpus, TEXTS, weight=0.3),
    Reader("labels", lambda _: ["a cat\né\n".encode()], changed_bytes, labels, TEXTS),
    *(
        Reader(f"picture, {kind}", partial(lambda kind, _: [encoded(kind)], kind), changed_bytes,
               decode, HOSTILE_BYTES, weight=0.5)
        for kind in FORMATS + NEWER
    ),
)  # fmt: skip
