"""Starter kit: captioned pictograms and a small teacher, shipped inside the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

SPLITS = ("train", "val", "test_style", "test_concepts")

__all__ = ["SPLITS", "kit_path", "teacher_path"]


def kit_path() -> Path:
    """Folder of the starter kit's webdataset shards and their ``index.json``."""
    return Path(str(files(__name__) / "shards"))


def teacher_path() -> Path:
    """Folder of the starter teacher in open_clip's ``local-dir`` layout."""
    return Path(str(files(__name__) / "teacher"))
