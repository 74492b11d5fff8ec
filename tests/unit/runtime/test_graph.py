"""Approximate search: what it finds against exact search, after changes, on disk, broken."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
from example_indexes import random_index

from tinyclip_edge.errors import DataError, MissingExtraError, TinyClipWarning
from tinyclip_edge.runtime import graph_recall
from tinyclip_edge.runtime.graph import Graph
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.vectors import unit

WIDTH, TOPICS = 32, 20


def topical(count, seed):
    """Unit vectors around some topics, and the topic of each."""
    centres = np.random.default_rng(7).standard_normal((TOPICS, WIDTH))
    generator = np.random.default_rng(seed)
    topics = generator.integers(TOPICS, size=count)
    spread = 0.5 * generator.standard_normal((count, WIDTH))
    return unit((centres[topics] + spread).astype(np.float32)), topics


def exact_rows(index, queries, k):
    """The nearest in float64."""
    features = index.features.astype(np.float64)
    if index.scales is not None:
        features *= index.scales[:, None]
    return np.argsort(-(queries.astype(np.float64) @ features.T), axis=1, kind="stable")[:, :k]


def share_found(index, queries, k=10):
    """Of the nearest in float64, which the index finds, on average."""
    found = index.top_of_each(queries, k)
    return np.mean(
        [
            len({hit.key for hit in hits} & {index.keys[row] for row in rows}) / len(rows)
            for hits, rows in zip(found, exact_rows(index, queries, k), strict=True)
        ]
    )


@pytest.fixture(scope="module")
def plain():
    vectors, topics = topical(2000, 1)
    metadata = tuple({"topic": int(topic)} for topic in topics)
    return ImageIndex(tuple(f"p{i}" for i in range(2000)), vectors, "abc-int8", metadata=metadata)


@pytest.fixture(scope="module")
def index(plain):
    return plain.compressed().approximate(minimum=0)


@pytest.fixture(scope="module")
def queries():
    return topical(40, 2)[0]


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize("int8", [False, True])
def test_it_finds_what_exact_search_finds_with_its_scores(plain, queries, int8, dtype):
    index = (plain.compressed() if int8 else plain).approximate(minimum=0, dtype=dtype)
    assert share_found(index, queries) >= 0.97
    exact = {hit.key: hit.score for hit in index.top(queries[0], 50, exact=True)}
    hits = index.top(queries[0], 10)
    assert [hit.score for hit in hits] == pytest.approx([exact[h.key] for h in hits], abs=1e-6)
    assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
    assert hits[0].metadata == plain.metadata[int(hits[0].key[1:])]
    assert index.top_of_each(queries[:3], 4) == [index.top(query, 4) for query in queries[:3]]
    low = (hits[4].score + hits[5].score) / 2
    assert index.top(queries[0], 10, min_score=low) == hits[:5]


def test_the_recall_it_tells_is_true(plain, queries):
    index = plain.approximate(queries, minimum=0, k=5, recall=0.9)
    facts = index.graph.facts
    assert (facts.k, facts.queries) == (5, 40)
    assert facts.recall == pytest.approx(share_found(index, queries, 5), abs=1e-9)
    assert facts.recall >= 0.9
    assert f"recall@5 {facts.recall:.3f}" in repr(index)


def test_recall_is_measured_without_the_picture_itself(plain):
    index = plain.approximate(minimum=0)
    rows = np.linspace(0, 1999, 200).astype(int)
    shares = []
    for row, expected in zip(rows, exact_rows(index, plain.features[rows], 11), strict=True):
        hits = {hit.key for hit in index.top(plain.features[row], 11)}
        shares.append(len(hits & {f"p{i}" for i in expected if i != row}) / 10)
    assert index.graph.facts.queries == 200
    assert index.graph.facts.recall == pytest.approx(np.mean(shares), abs=0.002)


def test_a_recall_that_is_not_reached_is_said(plain, queries, monkeypatch):
    monkeypatch.setattr(graph_recall, "EXPANSIONS", (1,))
    monkeypatch.setattr("tinyclip_edge.runtime.graph.Graph._enough", lambda self, k: 1)
    with pytest.warns(TinyClipWarning, match=r"recall@10 is 0\.\d+, below 0\.98.*search exactly"):
        plain.approximate(queries, minimum=0)


def test_few_pictures_are_searched_exactly(plain):
    assert plain.approximate().graph is None and plain.approximate(minimum=2001).graph is None
    assert random_index(0).approximate(minimum=0).graph is None
    for options in ({"recall": 0}, {"recall": 1.1}, {"k": 0}, {"dtype": "int4"}):
        with pytest.raises(DataError, match=r"above 0|dtype 'int4'"):
            plain.approximate(minimum=0, **options)


def test_removed_pictures_are_not_found(index, queries):
    gone = {hit.key for query in queries for hit in index.top(query, 5)}
    rest = index.remove(gone)
    assert len(rest.graph.labels) == len(rest) and rest.graph.nodes == 2000
    assert not gone & {hit.key for hits in rest.top_of_each(queries, 10) for hit in hits}
    assert share_found(rest, queries) >= 0.97


def test_added_pictures_are_found_at_once(index, queries):
    more = ImageIndex(tuple(f"q{i}" for i in range(300)), topical(300, 3)[0], "abc-int8")
    both = index.merge(more)
    assert len(both) == 2300 and len(both.graph.labels) == 2000
    assert share_found(both, queries) >= 0.97
    assert both.top(more.features[7], 1)[0].key == "q7"
    replaced = index.merge(replace(more, keys=index.keys[:300]), on_duplicate="last")
    assert len(replaced.graph.labels) == 1700 and share_found(replaced, queries) >= 0.97
    assert replaced.top(more.features[7], 1)[0].key == "p7"


def test_a_graph_is_brought_up_to_date(index, queries):
    more = ImageIndex(tuple(f"q{i}" for i in range(300)), topical(300, 3)[0], "abc-int8")
    both = index[:1800].merge(more).approximate(minimum=0)
    assert both.graph.nodes == 2300 and len(both.graph.labels) == 2100  # 200 nodes are passed over
    assert share_found(both, queries) >= 0.97
    assert index.approximate(minimum=0).graph.content is index.graph.content
    rebuilt = index[:1000].approximate(minimum=0)
    assert rebuilt.graph.nodes == 1000 and share_found(rebuilt, queries) >= 0.97


@pytest.mark.parametrize("topics", [range(10), [3], []])
def test_filtered_pictures_alone_are_found(index, queries, topics):
    part = index.filter(lambda key, metadata: metadata["topic"] in topics)
    assert part.graph is None or len(part.graph.labels) == len(part)
    found = part.top_of_each(queries, 10)
    assert all(hit.metadata["topic"] in topics for hits in found for hit in hits)
    assert all(len(hits) == min(10, len(part)) for hits in found)
    if topics:
        assert share_found(part, queries) >= 0.97


def test_a_query_whose_neighbours_are_gone_is_searched_exactly(index):
    query, topics = topical(200, 4)
    rest = index.filter(lambda key, metadata: metadata["topic"] != 3)
    query = query[topics == 3]
    assert share_found(rest, query) == 1.0


def test_rows_that_change_places_lose_the_graph(index):
    assert index[::-1].graph is None and index[[5, 3]].graph is None and index[[2, 2]].graph is None
    assert index[:].graph is index.graph and len(index[10:20].graph.labels) == 10
    assert index[1500:].merge(index[:10]).graph.labels.tolist() == list(range(1500, 2000))
    assert replace(random_index(9), graph=None).approximate(minimum=0).compressed().graph is None


def test_it_needs_no_usearch_to_be_kept(index, queries, tmp_path, monkeypatch):
    loaded = ImageIndex.load(index.save(tmp_path / "x"), mmap=True)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyclip-edge\[search\]'"):
        random_index(9).approximate(minimum=0)
    with pytest.warns(TinyClipWarning, match=r"\[search\]'; this search is exact"):
        hits = loaded.top(queries[0], 10)
    assert hits == index.top(queries[0], 10, exact=True)
    kept = ImageIndex.load(loaded[5:].save(tmp_path / "y"))
    assert len(kept.graph.labels) == 1995


@pytest.mark.parametrize("mmap", [False, True])
def test_it_is_in_the_file(index, queries, tmp_path, mmap):
    path = index.remove("p5").save(tmp_path / "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]
    loaded = ImageIndex.load(path, mmap=mmap)
    assert loaded.graph.facts == index.graph.facts and 5 not in loaded.graph.labels
    assert isinstance(loaded.graph.content, np.memmap) is mmap
    expected = index.remove("p5").top_of_each(queries, 5)
    assert loaded.top_of_each(queries, 5) == expected
    assert ImageIndex.load(path, mmap=mmap, exact=True).graph is None
    copy = pickle.loads(pickle.dumps(loaded))
    assert copy.top_of_each(queries, 5) == expected


def changed(index, **values):
    facts = replace(index.graph.facts, **values)
    return replace(index, graph=Graph(index.graph.content, index.graph.labels, facts))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, "of a newer version; upgrade"),
        ({"recall": 1.5}, "are not valid"),
        ({"expansion": 10**9}, "are not valid"),
        ({"dtype": "f64"}, "are not valid"),
    ],
)
def test_settings_that_cannot_be_true(index, tmp_path, values, message):
    path = changed(index, **values).save(tmp_path / "x")
    with pytest.raises(DataError, match=message):
        ImageIndex.load(path)
    assert ImageIndex.load(path, exact=True).graph is None


def with_bytes(index, place, value):
    content = index.graph.content.copy()
    content[place : place + len(value)] = np.frombuffer(value, np.uint8)
    return replace(index, graph=Graph(content, index.graph.labels, index.graph.facts))


@pytest.fixture(scope="module")
def small():
    return random_index(60, 8).compressed().approximate(minimum=0)


def test_links_to_no_node_are_refused_before_they_are_followed(small):
    head = 8 + 60 * 8
    nodes = head + 64 + 40 + 2 * 60
    query = np.ones(8, np.float32) / 8**0.5
    for place, value, message in (
        (head, b"x", "another version"),
        (head + 9, b"\x09\0", "another version"),  # whose kinds were other numbers
        (head + 14, b"\x0a", "another kind"),  # float64: eight bytes a number
        (head + 64, b"\xff\xff", "numbers of its graph"),
        (head + 64 + 32, b"\xff\xff\xff", "levels of its graph"),  # where a search begins
        (nodes - 2, b"\x07", "cut off|levels|belong to no node"),
        (nodes + 10, b"\xff", "links to no node"),  # their number
        (nodes + 14, b"\xff\xff", "links to no node"),
    ):
        with pytest.raises(DataError, match=message):
            with_bytes(small, place, value).top(query, 3)
    for labels in ([3, 2], [60], [1, 1]):
        with pytest.raises(ValueError, match="not nodes of it"):
            Graph(small.graph.content, np.array(labels, np.uint32), small.graph.facts)
    for cut in (0, 7, 400, 600, len(small.graph.content) - 1):
        with pytest.raises((DataError, ValueError), match="its graph"):
            replace(
                small, graph=Graph(small.graph.content[:cut], small.graph.labels, small.graph.facts)
            ).top(query, 3)


def test_any_changed_byte_is_refused_or_harmless(small):
    generator = np.random.default_rng(0)
    query = np.ones(8, np.float32) / 8**0.5
    refused = 0
    for place in generator.integers(8, len(small.graph.content), size=400).tolist():
        try:
            hits = with_bytes(small, place, generator.bytes(1)).top(query, 3)
        except DataError:
            refused += 1
        else:
            assert len(hits) == 3
    assert 20 < refused < 380
