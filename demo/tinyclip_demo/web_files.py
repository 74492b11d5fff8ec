"""Which files the browser page consists of, and where onnxruntime-web's lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tinyclip_edge.errors import MissingExtraError

ORT_START = "ort"  # what the names of onnxruntime-web's files begin with
# What the page loads on a CPU; WebGPU's are optional.
ORT_NEEDED = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PACKAGE = Path("node_modules", "onnxruntime-web")
_HERE = Path(__file__).resolve().parent
_SERVED = frozenset({".html", ".css", ".js", ".svg", ".png", ".webp"})


def page_folder() -> Path:
    """Return the page's folder: beside this package when installed, ``demo/web`` in a checkout."""
    installed = _HERE / "web_page"
    return installed if installed.is_dir() else _HERE.parent / "web"


def page_files() -> dict[str, Path]:
    """Return the page's files by their path in an address."""
    root = page_folder()
    names = [
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in _SERVED
    ]
    return {"/": root / "index.html", **served_files("/", root, names)}


def served_files(prefix: str, root: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return those of the relative names that are files, by their path in an address."""
    return {prefix + name: root / name for name in names if (root / name).is_file()}


def find_ort(folder: str | Path | None, near: Path) -> Path:
    """Return the folder of onnxruntime-web's files: the one given, or a node_modules around.

    Looks upward from the working directory and from ``near``, then in the user's cache.
    Raise MissingExtraError, with the command that installs them, when they are nowhere.
    """
    if folder is not None:
        given = Path(folder)
        for place in (given, given / "dist", given / _PACKAGE / "dist"):
            if _complete(place):
                return place
        raise MissingExtraError(
            f"{given} has no onnxruntime-web: npm install --prefix {given} onnxruntime-web"
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
    return all((folder / name).is_file() for name in ORT_NEEDED)
