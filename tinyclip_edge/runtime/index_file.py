"""The .npz file of an image index: no pickles, and memory bounded by the file's size."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, first_line
from tinyclip_edge.json_text import check_count, parse_json
from tinyclip_edge.limits import JSON_VALUES
from tinyclip_edge.paths import expanded, is_file
from tinyclip_edge.runtime.decode_modes import DECODE_MODES, EXACT
from tinyclip_edge.runtime.index_keys import MappedKeys, key_bytes
from tinyclip_edge.runtime.npz_members import mapped_array, read_array, write_member

if TYPE_CHECKING:
    from tinyclip_edge.runtime.graph import Graph

# 1 had no version, metadata, errors, files or bundle; 2 had no decode mode.
FORMAT_VERSION = 3
MARKS = 256  # most commas, colons and brackets in the metadata per picture, on average

# State of a picture's file when it was embedded.
FILE_STAMP = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("digest", "u1", (16,))])

_NOT_FINITE = re.compile(rb"NaN|Infinity|[eE]\+?[0-9]{3}")  # may not be a finite number


class SkippedImage(NamedTuple):
    """A picture that is not in the index, and why."""

    key: str
    reason: str


class IndexContent(NamedTuple):
    """Content of an index file; see ``ImageIndex``."""

    keys: Sequence[str]
    features: npt.NDArray[Any]  # [N, D], float32 or int8
    model_hash: str
    scales: npt.NDArray[np.float32] | None = None  # [N], of int8 features
    width: int | None = None
    metadata: tuple[Mapping[str, Any], ...] | None = None  # one per key
    errors: tuple[SkippedImage, ...] = ()
    files: npt.NDArray[Any] | None = None  # [N] of FILE_STAMP
    bundle: str | None = None
    graph: Graph | None = None
    decode: str = EXACT  # of DECODE_MODES


def index_path(path: str | Path) -> Path:
    """Return the path of an index file: with ``~`` and ``$NAME`` expanded, ending in .npz."""
    path = Path(expanded(path))
    return path if path.suffix.lower() == ".npz" else path.with_name(path.name + ".npz")


def write_index(file: IO[bytes], content: IndexContent) -> None:
    """Write an uncompressed npz, the only form that `read_index` accepts.

    Raise DataError for metadata that JSON cannot hold.
    """
    keys, key_ends = key_bytes(content.keys)
    arrays: dict[str, npt.NDArray[Any]] = {
        "format_version": np.array(FORMAT_VERSION),
        "keys": keys,
        "key_ends": key_ends,
        "features": content.features,
        "model_hash": np.array(content.model_hash),
        "decode": np.array(content.decode),
    }
    if content.scales is not None:
        arrays["scales"] = content.scales
    if content.width is not None:
        arrays["width"] = np.array(content.width)
    if content.metadata is not None:
        arrays["metadata"] = _metadata_bytes(content)
    if content.errors:
        arrays["errors"] = _json_bytes(content.errors)
    if content.files is not None:
        arrays["files"] = content.files
    if content.bundle is not None:
        arrays["bundle"] = _json_bytes(content.bundle)
    if content.graph is not None:
        arrays["graph"] = content.graph.content
        arrays["graph_labels"] = content.graph.labels
        arrays["graph_facts"] = _json_bytes(asdict(content.graph.facts))
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            write_member(archive, f"{name}.npy", array)


def read_index(path: Path, *, mapped: bool = False, exact: bool = False) -> IndexContent:
    """Read and check an index file; raise DataError if it is missing, broken or not an index.

    ``mapped`` leaves keys, features, file stamps and graph on disk, unchecked, and maps them into
    memory. ``exact`` leaves out the graph.
    """
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
            if "format_version" in names:
                _check_version(int(read_array(file, "format_version")))
            large = partial(mapped_array, raw) if mapped else read_array
            features = large(file, "features")
            values = _most_values(features)
            return IndexContent(
                keys=MappedKeys(large(file, "keys"), large(file, "key_ends"))
                if mapped and "key_ends" in names
                else _texts(_json(file, "keys", values)),
                features=features if mapped else _features(features),
                model_hash=_text(read_array(file, "model_hash")),
                scales=_finite(read_array(file, "scales")) if "scales" in names else None,
                width=int(read_array(file, "width")) if "width" in names else None,
                metadata=_tables(_json(file, "metadata", values)) if "metadata" in names else None,
                errors=_errors(_json(file, "errors", values)) if "errors" in names else (),
                files=_stamps(large(file, "files")) if "files" in names else None,
                bundle=_texts([_json(file, "bundle", values)])[0] if "bundle" in names else None,
                decode=_decode(read_array(file, "decode")) if "decode" in names else EXACT,
                graph=None if exact or "graph" not in names else _graph(file, large, features),
            )
    except FileNotFoundError as error:
        raise missing_index(path) from error
    # On broken bytes zipfile and numpy may raise any exception.
    except Exception as error:
        cause = first_line(error)
        raise DataError(f"{path} is not an index file: {cause}") from error


def missing_index(path: Path) -> DataError:
    """Return the error for an index file that does not exist."""
    plain = path.with_suffix("")  # as it was typed, if that was another kind of file
    if is_file(plain):
        return DataError(f"{plain} is not an index file, whose name ends in {path.suffix}")
    return DataError(f"no such index: {path}; make one with `tinyclip-edge index FOLDER`")


def _check_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise ValueError(
            f"its version {version} is newer than {FORMAT_VERSION}, the newest this tinyclip-edge "
            "reads; upgrade tinyclip-edge"
        )


def _json_bytes(value: object) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value, allow_nan=False).encode(), dtype=np.uint8)


def _metadata_bytes(content: IndexContent) -> npt.NDArray[np.uint8]:
    assert content.metadata is not None
    try:
        text = json.dumps([dict(entry) for entry in content.metadata], allow_nan=False)
        check_count(text, _most_values(content.features))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"index: metadata must be texts, finite numbers, lists and tables: {error}"
        ) from error
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _most_values(features: npt.NDArray[Any]) -> int:
    """Return how many values and keys the JSON in an index may have."""
    return JSON_VALUES + MARKS * len(features)


def _json(file: zipfile.ZipFile, name: str, values: int) -> object:
    content = read_array(file, name).tobytes()
    value = parse_json(content, values=values)
    if _NOT_FINITE.search(content):
        json.dumps(value, allow_nan=False)  # raises ValueError
    return value


def _features(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array if array.dtype == np.int8 else _finite(array)


def _graph(
    file: zipfile.ZipFile,
    large: Callable[[zipfile.ZipFile, str], npt.NDArray[Any]],
    features: npt.NDArray[Any],
) -> Graph:
    from tinyclip_edge.runtime.graph import Graph, GraphFacts

    entries = _json(file, "graph_facts", JSON_VALUES)
    if not isinstance(entries, dict):
        raise ValueError("the settings of its graph are not a table")  # noqa: TRY004 - of the file
    facts = GraphFacts(**entries)
    facts.check()
    content, labels = large(file, "graph"), large(file, "graph_labels")
    if content.dtype != np.uint8 or content.ndim != 1 or len(labels) > len(features):
        raise ValueError("its graph does not match its features")
    return Graph(content, labels, facts)


def _decode(array: npt.NDArray[Any]) -> str:
    mode = _text(array)
    if mode not in DECODE_MODES:
        raise ValueError(f"its decode mode {mode[:20]!r} is unknown; upgrade tinyclip-edge")
    return mode


def _finite(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError("its numbers are not finite floats")
    return np.asarray(array, dtype=np.float32)


def _text(array: npt.NDArray[Any]) -> str:
    """Return the text of an array; numpy does not check its characters."""
    if array.dtype.kind != "U" or array.shape != ():
        raise ValueError("its model hash or decode mode is not a text")
    little = array.astype(array.dtype.newbyteorder("<")).tobytes()
    if np.frombuffer(little, "<u4").max(initial=0) > sys.maxunicode:
        raise ValueError("its model hash has characters that do not exist")
    return str(array)


def _stamps(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype != FILE_STAMP:
        raise ValueError("its file stamps are of another kind")
    return array


def _texts(keys: object) -> tuple[str, ...]:
    if not isinstance(keys, list) or not set(map(type, keys)) <= {str}:
        raise ValueError("its keys are not strings")
    return tuple(keys)


def _tables(entries: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("its metadata are not tables")
    return tuple(entries)


def _errors(entries: object) -> tuple[SkippedImage, ...]:
    if not isinstance(entries, list) or not all(
        isinstance(entry, list) and len(entry) == 2 for entry in entries
    ):
        raise ValueError("its errors are not pairs of key and reason")
    return tuple(SkippedImage(*_texts(entry)) for entry in entries)
