"""The .npz file of an image index: no pickles, and memory bounded by the file's size."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import parse_json


class IndexContent(NamedTuple):
    """Content of an index file; see ``ImageIndex``."""

    keys: tuple[str, ...]
    features: npt.NDArray[Any]  # [N, D], float32 or int8
    model_hash: str
    scales: npt.NDArray[np.float32] | None  # [N], of int8 features
    width: int | None


def write_index(file: IO[bytes], content: IndexContent) -> None:
    """Write an uncompressed npz, the only form that `read_index` accepts."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "keys": np.frombuffer(json.dumps(content.keys).encode(), dtype=np.uint8),
        "features": content.features,
        "model_hash": np.array(content.model_hash),
    }
    if content.scales is not None:
        arrays["scales"] = content.scales
    if content.width is not None:
        arrays["width"] = np.array(content.width)
    # numpy's stub treats the names as its own options.
    np.savez(file, **arrays)  # type: ignore[arg-type]


def read_index(path: Path) -> IndexContent:
    """Read and check an index file; raise DataError if it is missing, broken or not an index."""
    try:
        with zipfile.ZipFile(path) as file:
            names = set(file.namelist())
            return IndexContent(
                keys=_texts(parse_json(_array(file, "keys").tobytes())),
                features=_features(_array(file, "features")),
                model_hash=str(_array(file, "model_hash")),
                scales=_finite(_array(file, "scales")) if "scales.npy" in names else None,
                width=int(_array(file, "width")) if "width.npy" in names else None,
            )
    except FileNotFoundError as error:
        raise DataError(f"no such index: {path}") from error
    # On broken bytes zipfile and numpy may raise any exception.
    except Exception as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is not an index file: {cause}") from error


def _array(file: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    member = file.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    content = io.BytesIO(file.read(member))
    version = np.lib.format.read_magic(content)
    header_readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in header_readers:
        raise ValueError(f"{name} has another version of numpy's format")
    shape, _, dtype = header_readers[version](content)
    # numpy allocates the size that the header claims before it reads the data.
    remaining = len(content.getvalue()) - content.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != remaining:
        raise ValueError(f"{name} does not match its header")
    content.seek(0)
    return np.asarray(np.lib.format.read_array(content, allow_pickle=False))


def _features(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array if array.dtype == np.int8 else _finite(array)


def _finite(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError("its numbers are not finite floats")
    return np.asarray(array, dtype=np.float32)


def _texts(keys: object) -> tuple[str, ...]:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its keys are not strings")
    return tuple(keys)
