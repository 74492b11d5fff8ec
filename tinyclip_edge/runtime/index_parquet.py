"""Read an index from parquet files of embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tinyclip_edge.errors import BundleError, DataError, TinyClipWarning, shown
from tinyclip_edge.paths import expanded, is_folder
from tinyclip_edge.runtime.index_file import IndexContent
from tinyclip_edge.runtime.index_rows import repeated
from tinyclip_edge.runtime.parquet_rows import Rows, read_rows


def read_parquet_index(paths: str | Path | Iterable[str | Path]) -> IndexContent:
    """Return the rows of files, or of the files in folders, in order of their names.

    Warn of keys that appear more than once. Raise DataError for a file of another kind or type,
    BundleError for files of different models or decode modes.
    """
    parts: list[Rows] = []
    widths: set[int | None] = set()
    models: set[str] = set()
    modes: set[str] = set()
    forms: set[tuple[np.dtype[Any], int]] = set()
    for path in _files([paths] if isinstance(paths, (str, Path)) else paths):
        width, decode, rows = read_rows(path)
        parts += rows
        widths.add(width)
        modes.add(decode)
        models.update(model for part in rows for model in part.models)
        forms.update((part.vectors.dtype, part.vectors.shape[1]) for part in rows)
        if len(models) > 1:
            raise BundleError(
                f"{path} has embeddings of more than one model: {shown(sorted(models))}"
            )
        if len(modes) > 1:
            raise BundleError(
                f"{path} has embeddings of pictures decoded {decode}, unlike the other files; read "
                "files of one mode only"
            )
        if len(forms) > 1 or len(widths) > 1:
            raise DataError(f"{path} has vectors of another type or width than the other files")
    if not parts:
        raise DataError(f"no parquet file with embeddings in {shown(paths)}")
    keys = tuple(key for part in parts for key in part.keys)
    if twice := repeated(keys):
        warnings.warn(
            f"index: {twice[1]:,} keys appear more than once, such as {shown(twice[0])}; results "
            "cannot tell such pictures apart",
            TinyClipWarning,
            stacklevel=3,
        )
    metadata = tuple(entry for part in parts for entry in part.metadata)
    scales = [part.scales for part in parts if part.scales is not None]
    return IndexContent(
        keys,
        np.concatenate([part.vectors for part in parts]),
        models.pop(),
        scales=np.concatenate(scales) if scales else None,
        width=widths.pop(),
        metadata=metadata if any(metadata) else None,
        decode=modes.pop(),
    )


def _files(paths: Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for each in paths:
        path = Path(expanded(each))
        files += sorted(path.glob("*.parquet")) if is_folder(path) else [path]
    return files
