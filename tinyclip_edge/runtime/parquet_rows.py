"""Embeddings in parquet files, of an index or of a shard: their columns, writer and reader.

Columns: ``key``, ``vector`` (a list of fixed size of float16, float32 or int8), ``scale`` (float32,
of int8 vectors), ``model``, ``precision``, ``metadata`` (JSON), and for pairs ``captions``,
``caption_vectors`` and ``caption_scales``. The metadata of a file written here include a
``FileHeader`` as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, did_you_mean, first_line, missing_extra
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import MIB, UNPACK_RATIO
from tinyclip_edge.runtime.decode_modes import EXACT
from tinyclip_edge.runtime.parquet_header import (
    DTYPES,
    ENTRY,
    FileHeader,
    header_entry,
    parsed_header,
)
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import int8_codes

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP = 16_384  # rows that are read or written at a time
_ROW_BYTES = 100  # of memory that a row takes besides its vector


class Captions(NamedTuple):
    """Texts of each row, and the embeddings of all texts in order."""

    texts: Sequence[Sequence[str]]
    vectors: Features  # [sum of texts, D]


class ParquetWriter:
    """An open parquet file of embeddings; ``parquet_file`` makes one."""

    def __init__(self, file: IO[bytes], header: FileHeader, *, captions: bool) -> None:
        pa = _arrow()
        import pyarrow.parquet as pq

        self._header = header
        self._schema = pa.schema(_fields(header, captions=captions))
        self._file = pq.ParquetWriter(file, self._schema, compression="zstd")

    def write(
        self,
        keys: Sequence[str],
        vectors: npt.NDArray[Any],
        *,
        scales: Features | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        captions: Captions | None = None,
    ) -> None:
        """Add rows: float32 vectors ``[N, D]``, or int8 ones with their scales ``[N]``."""
        pa = _arrow()
        if scales is None and self._header.dtype == "int8":
            vectors, scales = int8_codes(vectors)
        columns = {"key": pa.array(keys, pa.string()), "vector": _vectors(vectors, self._header)}
        if scales is not None:
            columns["scale"] = pa.array(scales)
        for name, text in (
            ("model", self._header.model_hash),
            ("precision", self._header.precision),
        ):
            columns[name] = pa.array([text] * len(keys), pa.string()).dictionary_encode()
        texts = [None] * len(keys) if metadata is None else map(_json, metadata)
        columns["metadata"] = pa.array(texts, pa.string())
        if captions is not None:
            columns |= self._captions(captions)
        self._file.write_table(pa.table(columns, schema=self._schema), row_group_size=ROW_GROUP)

    def _captions(self, captions: Captions) -> dict[str, pa.Array]:
        pa = _arrow()
        counts = np.cumsum([0, *map(len, captions.texts)], dtype=np.int32)
        texts = [text for row in captions.texts for text in row]
        columns = {"captions": pa.array(texts, pa.string())}
        if self._header.dtype == "int8":
            codes, scales = int8_codes(captions.vectors)
            columns["caption_vectors"] = _vectors(codes, self._header)
            columns["caption_scales"] = pa.array(scales)
        else:
            columns["caption_vectors"] = _vectors(captions.vectors, self._header)
        return {
            name: pa.ListArray.from_arrays(counts, column, type=self._schema.field(name).type)
            for name, column in columns.items()
        }

    def close(self, **about: object) -> None:
        """Write the end of the file, with the header; ``about`` is added to the header's."""
        header = replace(self._header, about={**self._header.about, **about})
        self._file.add_key_value_metadata(header_entry(header))
        self._file.close()

    def abandon(self) -> None:
        """Close the file, which is then removed."""
        with suppress(Exception):  # the disk may be full
            self._file.close()


@contextmanager
def parquet_file(
    path: Path, header: FileHeader, *, captions: bool = False
) -> Iterator[ParquetWriter]:
    """Yield a writer of a file that replaces ``path`` when the block ends.

    Raise DataError if the disk refuses, MissingExtraError without pyarrow.
    """
    if header.dtype not in DTYPES:
        raise DataError(f"dtype {header.dtype!r}{did_you_mean(header.dtype, DTYPES)}")
    _arrow()
    with file_written_aside(path) as file:
        writer = ParquetWriter(file, header, captions=captions)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise


def read_header(path: Path) -> FileHeader:
    """Return the header of a file of ``parquet_file``; raise DataError for any other file."""
    with _opened(path) as file:
        entry = (file.metadata.metadata or {}).get(ENTRY)
        if entry is None:
            raise ValueError(f"its metadata have no entry {ENTRY.decode()}")
        return parsed_header(entry)


class Rows(NamedTuple):
    """Rows of a file."""

    models: set[str]  # hashes
    keys: list[str]
    vectors: npt.NDArray[Any]  # [N, D], float32 or int8
    scales: Features | None  # [N] of int8
    metadata: list[Mapping[str, Any]]


class FileRows(NamedTuple):
    """Content of a file."""

    width: int | None  # of the model's embeddings, if the file's vectors are shorter
    decode: str  # mode of the pictures
    parts: list[Rows]


def read_rows(path: Path) -> FileRows:
    """Return the rows of a file.

    Raise DataError for a file without these columns, with a missing value, or with numbers that
    are not finite.
    """
    with _opened(path) as file:
        entry = (file.metadata.metadata or {}).get(ENTRY)
        vector = file.schema_arrow.field("vector").type
        scaled = _check(path, file, vector)
        names = ["key", "vector", "model", "metadata", *(["scale"] if scaled else [])]
        batches = file.iter_batches(ROW_GROUP, columns=names)
        header = None if entry is None else parsed_header(entry)
        width, decode = (None, EXACT) if header is None else (header.width, header.decode)
        return FileRows(width, decode, [_rows(batch, vector.list_size) for batch in batches])


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    pa = _arrow()
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (pa.ArrowException, ValueError, LookupError, TypeError, AttributeError) as error:
        cause = first_line(error)
        raise DataError(f"{path} has no embeddings of tinyclip-edge: {cause}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _check(path: Path, file: pq.ParquetFile, vector: pa.DataType) -> bool:
    """Return whether vectors are int8.

    Raise ValueError for columns of other types, or a file that unpacks to far more than its size.
    """
    pa = _arrow()
    numbers = {pa.float16(): False, pa.float32(): False, pa.int8(): True}
    if not pa.types.is_fixed_size_list(vector) or vector.value_type not in numbers:
        raise ValueError(f"column vector is {vector}")
    for name in ("key", "metadata"):
        if file.schema_arrow.field(name).type != pa.string():
            raise ValueError(f"column {name} is {file.schema_arrow.field(name).type}")
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    row = _ROW_BYTES + vector.list_size * np.dtype(np.float32).itemsize
    content = max(file.metadata.num_rows * row, sum(group.total_byte_size for group in groups))
    if content > UNPACK_RATIO * path.stat().st_size + MIB:
        raise ValueError(f"it unpacks to more than {UNPACK_RATIO} times its size")
    return numbers[vector.value_type]


def _rows(batch: pa.RecordBatch, dimensions: int) -> Rows:
    keys = batch.column("key").to_pylist()
    models = set(batch.column("model").to_pylist())
    vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
    scales = None
    if vectors.dtype == np.int8:
        scales = batch.column("scale").to_numpy(zero_copy_only=False).astype(np.float32)
    else:
        vectors = vectors.astype(np.float32)
    if len(vectors) != len(keys) * dimensions or None in keys or None in models:
        raise ValueError("a key, a model or a vector is missing")
    for numbers in (vectors, scales):
        if numbers is not None and numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise ValueError("its numbers are not finite")
    metadata = [_table(text) for text in batch.column("metadata").to_pylist()]
    return Rows(models, keys, vectors.reshape(len(keys), dimensions), scales, metadata)


def _fields(header: FileHeader, *, captions: bool) -> list[pa.Field]:
    pa = _arrow()
    number = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}[header.dtype]
    vector = pa.list_(number, header.dimensions)
    scaled = header.dtype == "int8"
    fields = [pa.field("key", pa.string()), pa.field("vector", vector)]
    if scaled:
        fields.append(pa.field("scale", pa.float32()))
    name = pa.dictionary(pa.int32(), pa.string())
    fields += [pa.field("model", name), pa.field("precision", name)]
    fields.append(pa.field("metadata", pa.string()))
    if captions:
        fields.append(pa.field("captions", pa.list_(pa.string())))
        fields.append(pa.field("caption_vectors", pa.list_(vector)))
        if scaled:
            fields.append(pa.field("caption_scales", pa.list_(pa.float32())))
    return fields


def _vectors(vectors: npt.NDArray[Any], header: FileHeader) -> pa.Array:
    pa = _arrow()
    numbers = np.ascontiguousarray(vectors, dtype=header.dtype).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers), header.dimensions)


def _json(value: Mapping[str, Any]) -> str | None:
    try:
        return json.dumps(value, allow_nan=False) if value else None
    except (TypeError, ValueError) as error:
        raise DataError(
            f"metadata must be texts, finite numbers, lists and tables: {error}"
        ) from error


def _table(text: str | None) -> Mapping[str, Any]:
    value = {} if text is None else parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("its metadata are not tables")  # noqa: TRY004 - of the file, not the code
    return value


def _arrow() -> Any:  # noqa: ANN401 - a module
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise missing_extra("parquet files need", "pyarrow", "embed") from None
    return pa
