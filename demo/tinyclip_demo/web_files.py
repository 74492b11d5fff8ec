"""Locate the files of the browser page and of onnxruntime-web."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tinyclip_edge.errors import MissingExtraError

ORT_START = "ort"  # prefix of the names of onnxruntime-web's files
# Required on a CPU; WebGPU's are optional.
ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PACKAGE = Path("node_modules", "onnxruntime-web")
_HERE = Path(__file__).resolve().parent
_SUFFIXES = frozenset({".html", ".css", ".js", ".svg", ".png", ".webp"})


def page_folder() -> Path:
    """Return the page's folder: next to this package if installed, ``demo/web`` in a checkout."""
    installed = _HERE / "web_page"
    return installed if installed.is_dir() else _HERE.parent / "web"


def page_files() -> dict[str, Path]:
    """Return the page's files by their URL path."""
    root = page_folder()
    names = [
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in _SUFFIXES
    ]
    return {"/": root / "index.html", **files_by_address("/", root, names)}


def files_by_address(prefix: str, root: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return those of the relative names that are files, by their URL path."""
    return {prefix + name: root / name for name in names if (root / name).is_file()}


def find_ort(folder: str | Path | None, near: Path) -> Path:
    """Return the folder of onnxruntime-web's files: ``folder``, or the nearest node_modules.

    Searches upwards from the working directory and from ``near``, then the user's cache. Raises
    MissingExtraError, with the command that installs it, when there is none.
    """
    if folder is not None:
        search_folder = Path(folder)
        for place in (search_folder, search_folder / "dist", search_folder / _PACKAGE / "dist"):
            if _complete(place):
                return place
        raise MissingExtraError(
            f"{search_folder} has no onnxruntime-web: "
            f"npm install --prefix {search_folder} onnxruntime-web"
        )
    home = _cache()
    here, there = Path.cwd(), near.resolve()
    for place in (here, *here.parents, there, *there.parents, home):
        if _complete(place / _PACKAGE / "dist"):
            return place / _PACKAGE / "dist"
    raise MissingExtraError(
        "the browser page needs onnxruntime-web, which comes from npm: "
        f"npm install --prefix {home} onnxruntime-web (any other folder: add --ort FOLDER)"
    )


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tinyclip-edge" / "web"


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ORT_FILES)
