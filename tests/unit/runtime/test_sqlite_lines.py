"""The lines of docs/howto/grow.md for sqlite-vec give the right pictures and scores."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pysqlite3
import pytest
from example_indexes import random_index

from tinyclip_edge.runtime.vectors import unit

SEARCH = 'database.execute(\n    "SELECT'
PAGE = Path(__file__).parents[3] / "docs/howto/grow.md"


def documented_lines(dimensions: int) -> str:
    section = PAGE.read_text(encoding="utf-8").split("\n## SQLite and PostgreSQL\n")[1]
    reader, sqlite, _pgvector = re.findall(r"^```python\n(.+?)^```", section, re.M | re.S)
    assert "float[512]" in sqlite
    statements = sqlite.replace("float[512]", f"float[{dimensions}]")
    return f"{reader}\n{statements}".replace(SEARCH, f"found = {SEARCH}")


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_sqlite_vec_gives_the_same_pictures_and_scores(int8, tmp_path, monkeypatch):
    index = random_index(60).compressed(int8=int8)
    index = replace(index, metadata=tuple({"number": i} for i in range(len(index))))
    index.to_parquet(tmp_path / "pictures.parquet")
    query = unit(np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32))[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sqlite3", pysqlite3)
    names = {"clip": SimpleNamespace(query=lambda text: query)}
    exec(compile(documented_lines(64), str(PAGE), "exec"), names)
    keys, scores = zip(*names["found"], strict=True)
    vectors = index.features.astype(np.float64)  # rows of int8 have a scale, which cosine ignores
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1)
    best = np.argsort(-cosines)[:10]
    assert list(keys) == [index.keys[row] for row in best]
    assert list(scores) == pytest.approx(cosines[best], abs=1e-5)
    hits = {hit.key: hit.score for hit in index.top(query, 60)}
    assert list(scores) == pytest.approx([hits[key] for key in keys], abs=1e-3 if int8 else 1e-5)
    rows = names["database"].execute("SELECT key, metadata FROM pictures WHERE rowid = 8")
    assert rows.fetchone() == (index.keys[7], '{"number": 7}')
