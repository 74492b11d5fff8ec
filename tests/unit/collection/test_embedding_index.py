"""Files of embeddings opened as an index, and an index written as such a file."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from pair_shards import toy_samples
from tinyclip_edge import ImageIndex, embed_shards
from tinyclip_edge.errors import DataError, TinyClipWarning


def test_an_index_of_the_files(clip, shards, tmp_path):
    for dtype, error in (("float16", 1e-3), ("int8", 0.01), ("float32", 1e-6)):
        out = tmp_path / dtype
        embed_shards(clip, shards, out, dtype=dtype)
        index = ImageIndex.from_parquet(out)
        assert len(index) == 48 and index.model_hash == clip.model_hash
        assert (index.scales is not None) == (dtype == "int8")
        assert index.metadata[3] == {"family": 32}
        sample = toy_samples()[20]
        expected = clip.encode_image([sample[1]["png"]])[0]
        np.testing.assert_allclose(index.vector(sample[0]), expected, atol=error)
        assert clip.search("a red square", index, 3) == clip.search(
            "a red square", ImageIndex.from_parquet(sorted(out.glob("*.parquet"))), 3
        )
    with pytest.warns(TinyClipWarning, match="16 keys appear more than once"):
        ImageIndex.from_parquet([*out.glob("*.parquet"), next(out.glob("0-*.parquet"))])
    with pytest.raises(DataError, match="vectors of another type"):
        ImageIndex.from_parquet([tmp_path / "int8", tmp_path / "float32"])
    with pytest.raises(DataError, match="no parquet file"):
        ImageIndex.from_parquet(tmp_path / "data")
    with pytest.raises(DataError, match="no such file"):
        ImageIndex.from_parquet(tmp_path / "none.parquet")


def test_an_index_that_was_written_as_parquet(clip, shards, tmp_path):
    index = clip.index([files["png"] for _, files in toy_samples()[:5]])
    for number, other in enumerate((index, index.compressed(dimensions=3), index.compressed())):
        path = other.to_parquet(tmp_path / f"{number}.parquet")
        again = ImageIndex.from_parquet(path)
        assert (again.keys, again.model_hash, again.width) == (
            other.keys, other.model_hash, other.width,
        )  # fmt: skip
        np.testing.assert_array_equal(again.features, other.features)
        np.testing.assert_array_equal(again.scales, other.scales)


def test_a_file_that_grows_out_of_proportion(clip, shards, tmp_path):
    embed_shards(clip, shards[:1], tmp_path / "out", dtype="float32")
    path = next((tmp_path / "out").glob("*.parquet"))
    table = pq.read_table(path)
    repeated = table.select(["key", "vector", "model", "metadata"]).take(
        np.zeros(400_000, np.int64)
    )
    pq.write_table(
        repeated.replace_schema_metadata(table.schema.metadata), tmp_path / "big.parquet"
    )
    assert (tmp_path / "big.parquet").stat().st_size < 400_000
    with pytest.raises(DataError, match="it unpacks to more than 100 times its size"):
        ImageIndex.from_parquet(tmp_path / "big.parquet")
