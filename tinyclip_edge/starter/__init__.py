"""Starter kit: captioned pictograms and a small teacher, from the package ``tinyclip_starter``.

The files are a separate distribution, installed by the extra ``[starter]``. Without it, each
function raises MissingExtraError.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tinyclip_edge.errors import MissingExtraError

PACKAGE = "tinyclip_starter"
SPLITS = ("train", "val", "test_style", "test_concepts")

__all__ = ["SPLITS", "from_scratch_path", "kit_path", "teacher_path"]


def kit_path() -> Path:
    """Return the folder of the starter kit's webdataset shards and their ``index.json``."""
    return _package_folder() / "shards"


def teacher_path() -> Path:
    """Return the folder of the starter teacher in open_clip's ``local-dir`` layout."""
    return _package_folder() / "teacher"


def from_scratch_path() -> Path:
    """Return the JSON file with the stored result of the quickstart's student from scratch."""
    return _package_folder() / "from_scratch.json"


def _package_folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:  # a namespace package is not the kit
        raise MissingExtraError(
            "the starter kit is not installed: pip install 'tinyclip-edge[starter]'"
        )
    return Path(spec.origin).parent
