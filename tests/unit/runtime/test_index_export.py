"""Indexes in Parquet, LanceDB and Qdrant: the same results there, nothing half-written."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_indexes import marked_index, random_index

from tinyclip_edge.errors import DataError, MissingExtraError
from tinyclip_edge.runtime import index_export
from tinyclip_edge.runtime.vectors import unit


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(index_export, "_ROWS", 25)
    monkeypatch.setattr(index_export, "_POINTS", 25)


@pytest.fixture(params=[False, True], ids=["float32", "int8"])
def index(request):
    index = random_index(60).compressed(int8=request.param)
    return replace(index, metadata=tuple({"number": i} for i in range(len(index))))


@pytest.fixture
def queries():
    return unit(np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32))


def check(index, queries, found):
    """``found(query)``: keys and scores of the ten best."""
    for query in queries:
        expected = index.top(query, 10)
        keys, scores = found(query)
        assert list(keys) == [hit.key for hit in expected]
        assert list(scores) == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_parquet(index, queries, tmp_path):
    path = index.to_parquet(tmp_path / "pictures.parquet")
    table = pq.read_table(path)
    assert table.num_rows == 60 and set(table["model"].to_pylist()) == {"abc-int8"}
    assert set(table["precision"].to_pylist()) == {"int8"}
    assert json.loads(table["metadata"][7].as_py()) == {"number": 7}
    vectors = np.stack(table["vector"].to_numpy()).astype(np.float32)
    if index.scales is not None:
        assert table.schema.field("vector").type.value_type == "int8"
        vectors *= table["scale"].to_numpy()[:, None]

    def found(query):
        scores = vectors @ query
        best = np.argsort(-scores)[:10]
        return table["key"].take(best).to_pylist(), scores[best]

    check(index, queries, found)


def test_lancedb(index, queries, tmp_path):
    import lancedb

    index.to_lancedb(tmp_path / "lance", "pictures")
    table = lancedb.connect(tmp_path / "lance").open_table("pictures")
    row = table.search(queries[0]).limit(1).to_list()[0]
    assert (row["model"], row["precision"]) == ("abc-int8", "int8")
    assert json.loads(row["metadata"]) == {"number": int(row["key"])}

    def found(query):
        rows = table.search(query).distance_type("dot").limit(10).to_list()
        return [row["key"] for row in rows], [1 - row["_distance"] for row in rows]

    check(index, queries, found)


@pytest.mark.parametrize("in_memory", [False, True])
def test_qdrant(index, queries, tmp_path, in_memory):
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:") if in_memory else None
    index.to_qdrant(client or tmp_path / "qdrant", "pictures")
    client = client or QdrantClient(path=tmp_path / "qdrant")
    assert client.count("pictures").count == 60

    def found(query):
        points = client.query_points("pictures", query.tolist(), limit=10).points
        return [point.payload["key"] for point in points], [point.score for point in points]

    check(index, queries, found)
    condition = models.FieldCondition(key="metadata.number", match=models.MatchValue(value=7))
    only = client.query_points(
        "pictures", queries[0].tolist(), query_filter=models.Filter(must=[condition])
    )
    assert [point.payload for point in only.points] == [
        {"key": "7", "model": "abc-int8", "precision": "int8", "metadata": {"number": 7}}
    ]
    client.close()


def test_a_qdrant_server_that_is_not_there(index):
    with pytest.raises(DataError, match=r"Qdrant in http://127\.0\.0\.1:9: "):
        index.to_qdrant("http://127.0.0.1:9", "pictures")


WAYS = ("to_parquet", "to_lancedb", "to_qdrant")


def export(index, way, folder):
    target = folder / way
    getattr(index, way)(target, *(() if way == "to_parquet" else ("pictures",)))
    return target


@pytest.mark.parametrize("way", WAYS)
def test_what_exists_is_left_alone(tmp_path, way):
    index = random_index(60)
    target = export(index, way, tmp_path)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="already; choose another name"):
        export(index[:3], way, tmp_path)
    after = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert {p: c for p, c in after.items() if p in before} == before


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_of_an_export_that_fails(tmp_path, way, monkeypatch):
    def broken(index, rows):
        if rows.start:
            raise RuntimeError("the disk is gone")
        return real(index, rows)

    real = index_export._floats
    with monkeypatch.context() as patch:
        patch.setattr(index_export, "_floats", broken)
        with pytest.raises((DataError, RuntimeError), match="disk is gone"):
            export(random_index(60), way, tmp_path)
    assert not (tmp_path / "to_parquet").exists() and not list(tmp_path.glob(".*"))
    export(random_index(60), way, tmp_path)  # the name is free


@pytest.mark.parametrize("way", WAYS)
def test_names_that_no_engine_takes(tmp_path, way):
    with pytest.raises(DataError, match=r"key 'b\\udcff' is not UTF-8; rename the file"):
        export(marked_index(), way, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("way", "module", "extra"),
    [
        ("to_parquet", "pyarrow.parquet", "parquet"),
        ("to_lancedb", "lancedb", "lancedb"),
        ("to_qdrant", "qdrant_client", "qdrant"),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, way, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'tinyclip-edge\[{extra}\]'"):
        export(random_index(60), way, tmp_path)
