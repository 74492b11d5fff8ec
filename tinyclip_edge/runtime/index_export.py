"""Export an index to engines that scale beyond one machine: Parquet, LanceDB, Qdrant.

Each entry has the key, the vector, the model's hash and precision, and the metadata. Vectors are
those that a search here compares, so their dot products with a query give the same scores.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, MissingExtraError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.paths import expanded
from tinyclip_edge.runtime.index_keys import check_utf8
from tinyclip_edge.runtime.protocol import Features

if TYPE_CHECKING:
    from lancedb import DBConnection
    from pyarrow import RecordBatch, Schema
    from qdrant_client import QdrantClient

_ROWS = 1 << 14  # of a batch of Parquet and LanceDB
_POINTS = 1 << 10  # of a request to Qdrant


class Columns(Protocol):
    """What is exported from an index."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the pictures."""
        ...

    @property
    def features(self) -> npt.NDArray[Any]:
        """``[N, D]``, float32 or int8."""
        ...

    @property
    def scales(self) -> Features | None:
        """``[N]`` of int8 features."""
        ...

    @property
    def metadata(self) -> Sequence[Mapping[str, Any]] | None:
        """A mapping per picture."""
        ...

    @property
    def width(self) -> int | None:
        """Dimensions of the model's embeddings, if the index has fewer."""
        ...

    @property
    def model_hash(self) -> str:
        """Identifier of weights and precision."""
        ...

    @property
    def decode(self) -> str:
        """Decode mode of the pictures."""
        ...


class ExportedIndex:
    """``to_parquet``, ``to_lancedb`` and ``to_qdrant`` of an index."""

    __slots__ = ()

    def to_parquet(self: Columns, path: str | Path) -> Path:
        """Write one Parquet file atomically, and return its path.

        Columns: ``key``, ``vector`` in the index's type, ``scale`` (int8 only), ``model``,
        ``precision``, and ``metadata`` as JSON. Raise DataError if the path exists.
        """
        parquet = _library("pyarrow.parquet", "parquet")
        target = Path(expanded(path))
        if os.path.lexists(target):
            raise DataError(f"{target} exists already; choose another name")
        check_utf8(self.keys)
        with (
            file_written_aside(target) as file,
            parquet.ParquetWriter(file, _schema(self, as_float=False)) as writer,
        ):
            writer.add_key_value_metadata(_header(self))
            for batch in _batches(self, as_float=False):
                writer.write_batch(batch)
        return target

    def to_lancedb(self: Columns, database: str | Path | DBConnection, table: str) -> None:
        """Write a new table to LanceDB, a folder or a connection; search it by dot product.

        Columns are those of ``to_parquet``, with float32 vectors. Raise DataError if the table
        exists, or if LanceDB refuses, in which case the unfinished table is removed.
        """
        lancedb = _library("lancedb", "lancedb")
        check_utf8(self.keys)
        if isinstance(database, (str, Path)):
            database = lancedb.connect(expanded(database))
        if table in _lance_tables(database):
            raise DataError(f"LanceDB has a table {table!r} already; choose another name")
        try:
            database.create_table(
                table, _batches(self, as_float=True), schema=_schema(self, as_float=True)
            )
        except BaseException as error:
            with suppress(Exception):
                database.drop_table(table)
            raise _refusal("LanceDB", error) from error

    def to_qdrant(self: Columns, client: QdrantClient | str | Path, collection: str) -> None:
        """Write a new Qdrant collection for dot products, by a client, an address or a folder.

        Ids are row numbers; payloads have ``key``, ``model``, ``precision`` and ``metadata``.
        Raise DataError if the collection exists, or if Qdrant refuses, in which case the
        unfinished collection is removed.
        """
        qdrant = _library("qdrant_client", "qdrant")
        check_utf8(self.keys)
        if isinstance(client, (str, Path)):
            place = "url" if "://" in str(client) else "path"
            opened = qdrant.QdrantClient(**{place: expanded(client)})
            try:
                _write_qdrant(self, qdrant, opened, collection, f"Qdrant in {client}")
            finally:
                opened.close()
        else:
            _write_qdrant(self, qdrant, client, collection, "Qdrant")


def _lance_tables(database: DBConnection) -> set[str]:
    tables: set[str] = set()
    token = None
    while True:
        page = database.list_tables(page_token=token)
        tables.update(page.tables)
        token = page.page_token
        if not token:
            return tables


def _write_qdrant(
    index: Columns,
    qdrant: Any,  # noqa: ANN401 - the module
    client: QdrantClient,
    collection: str,
    engine: str,
) -> None:
    models = qdrant.models
    try:
        is_taken = client.collection_exists(collection)
    except Exception as error:
        raise _refusal(engine, error) from error
    if is_taken:
        raise DataError(f"Qdrant has a collection {collection!r} already; choose another name")
    size = index.features.shape[1]
    precision = _precision(index)
    try:
        client.create_collection(
            collection,
            vectors_config=models.VectorParams(size=size, distance=models.Distance.DOT),
        )
        for rows in _blocks(len(index.keys), _POINTS):
            numbers = range(*rows.indices(len(index.keys)))
            payloads = [
                {
                    "key": index.keys[row],
                    "model": index.model_hash,
                    "precision": precision,
                    "metadata": {} if index.metadata is None else dict(index.metadata[row]),
                }
                for row in numbers
            ]
            vectors = _floats(index, rows).tolist()
            batch = models.Batch(ids=list(numbers), vectors=vectors, payloads=payloads)
            client.upsert(collection, batch, wait=True)
    except BaseException as error:
        with suppress(Exception):
            client.delete_collection(collection)
        raise _refusal(engine, error) from error


def _library(name: str, extra: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or name).partition(".")[0]
        raise MissingExtraError(
            f"the package '{package}' is not installed; run: pip install 'tinyclip-edge[{extra}]'"
        ) from error


def _refusal(engine: str, error: BaseException) -> BaseException:
    return DataError(f"{engine}: {error}") if isinstance(error, Exception) else error


def _precision(index: Columns) -> str:
    """Return the precision of the model, the end of its hash."""
    return index.model_hash.rpartition("-")[2]


def _header(index: Columns) -> dict[str, str]:
    from tinyclip_edge.runtime.parquet_header import FileHeader, header_entry

    dtype = "float32" if index.scales is None else "int8"
    dimensions, width = index.features.shape[1], index.width
    return header_entry(
        FileHeader(
            index.model_hash, _precision(index), dimensions, dtype, width, decode=index.decode
        )
    )


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def _floats(index: Columns, rows: slice) -> Features:
    vectors = np.asarray(index.features[rows], np.float32)
    return vectors if index.scales is None else vectors * index.scales[rows, None]


def _schema(index: Columns, *, as_float: bool) -> Schema:
    import pyarrow as pa

    compact = index.scales is not None and not as_float
    vector = pa.list_(pa.int8() if compact else pa.float32(), index.features.shape[1])
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("vector", vector, nullable=False),
            *([pa.field("scale", pa.float32(), nullable=False)] if compact else []),
            pa.field("model", text),
            pa.field("precision", text),
            pa.field("metadata", pa.string()),
        ]
    )


def _batches(index: Columns, *, as_float: bool) -> Iterator[RecordBatch]:
    import pyarrow as pa

    schema = _schema(index, as_float=as_float)
    for rows in _blocks(len(index.keys), _ROWS):
        compact = "scale" in schema.names
        vectors = np.asarray(index.features[rows]) if compact else _floats(index, rows)
        keys = list(index.keys[rows])
        entries = [None] * len(keys) if index.metadata is None else index.metadata[rows]
        columns: dict[str, Any] = {
            "key": pa.array(keys, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel()), type=schema.field("vector").type
            ),
            "model": pa.array([index.model_hash] * len(keys)).dictionary_encode(),
            "precision": pa.array([_precision(index)] * len(keys)).dictionary_encode(),
            "metadata": pa.array(
                [None if entry is None else json.dumps(dict(entry)) for entry in entries],
                pa.string(),
            ),
        }
        if index.scales is not None and compact:
            columns["scale"] = pa.array(index.scales[rows])
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)
