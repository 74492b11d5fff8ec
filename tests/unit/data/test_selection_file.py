"""A ``.selection``: chosen pairs of sources, read where they lie, and no others."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
from shard_files import refused
from test_feature_store import RECIPE, features_of
from test_stream import CODEC

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config.source_options import SourceOptions
from tinyclip_edge.data import FeatureStore, StreamingPairs, open_source
from tinyclip_edge.data.opening import open_named
from tinyclip_edge.data.selected_part import key_mark
from tinyclip_edge.data.selection_file import Choice, write_selection

ROWS = ([1, 4, 5, 15], [], [0, 7, 8, 9, 10, 11, 12, 13])


def select(path, patterns, rows):
    """Write a selection of some rows of each part."""
    source, names = open_named(patterns)
    choices = []
    for part, name, chosen in zip(source.parts, names, rows, strict=True):
        keys = [pair.key for pair in part]
        marks = np.frombuffer(b"".join(key_mark(keys[row]) for row in chosen), "<u8")
        choices.append(Choice.of_part(part, name, np.array(chosen, np.uint32), len(keys), marks))
    write_selection(path, {"pairs": sum(map(len, rows))}, choices)
    return path


@pytest.fixture
def shards(tmp_path):
    return [
        write_shard(tmp_path / f"a-{number}.tar", toy_samples()[16 * number : 16 * number + 16])
        for number in range(3)
    ]


@pytest.fixture
def selection(tmp_path, shards):
    return select(tmp_path / "chosen.selection", str(tmp_path / "a-*.tar"), ROWS)


def test_the_chosen_pairs_are_read(selection, tmp_path):
    whole = [list(part) for part in open_source(str(tmp_path / "a-*.tar")).parts]
    source = open_source(str(selection))
    assert list(source) == [whole[n][row] for n, rows in enumerate(ROWS) for row in rows]
    assert [part.pairs for part in source.parts] == [4, 8] and source.count().exact
    size = (tmp_path / "a-0.tar").stat().st_size
    assert [part.size for part in source.parts] == [-(-size * n // 16) for n in (4, 8)]
    assert source.fits(12) and not source.fits(11)


def test_rows_of_tables_and_folders(images, tmp_path):
    lines = ["image,caption", *(f'{name},"{text}"' for name, text in images * 12)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (tmp_path / "img" / "plain.txt").write_text("a picture")
    shutil.copy(tmp_path / images[0][0], tmp_path / "img" / "plain.png")
    for name, text in images:
        (tmp_path / name).with_suffix(".txt").write_text(text)
    patterns = [str(tmp_path / "list.csv"), str(tmp_path / "img")]
    rows = ([0, 255], [1, 44], [2], [0, 48])
    path = select(tmp_path / "some.selection", patterns, rows)
    whole = [list(part) for part in open_source(patterns).parts]
    expected = [whole[number][row] for number, each in enumerate(rows) for row in each]
    assert list(open_source(str(path))) == expected


def test_a_stream_goes_on_exactly(selection):
    def batches(start, position=None):
        stream = StreamingPairs(open_source(str(selection)), CODEC, buffer=3)
        for batch in stream.batches(start, 4, seed=0, distinct=False, position=position):
            yield (batch.keys, batch.captions), stream.position.plain()

    steps = batches(0)
    before = [next(steps) for _ in range(9)]  # three epochs
    assert len({key for (keys, _), _ in before[:3] for key in keys}) == 12
    for step in (1, 4, 8):
        going_on = batches(step, before[step - 1][1])
        assert next(going_on)[0] == before[step][0]


def test_moved_together_and_a_selection_of_it(selection, tmp_path):
    keys = [pair.key for pair in open_source(str(selection))]
    inner = select(tmp_path / "less.selection", str(selection), ([1], [0, 7]))
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    for shard in tmp_path.glob("*.tar"):
        shard.unlink()
    moved = tmp_path.with_name("moved")
    assert [pair.key for pair in open_source(str(moved / selection.name))] == keys
    less = open_source(str(moved / inner.name))
    assert [part.rows.tolist() for part in less.parts] == [[4], [0, 13]]  # of the shards
    assert [pair.key for pair in less] == [keys[1], keys[4], keys[11]]
    assert "which does not exist; move it back, or select again" in refused(
        open_source, str(selection)
    )


def test_features_of_the_whole_shard_are_used(selection, tmp_path):
    store = FeatureStore(tmp_path / "cache", RECIPE)
    store.create()
    source = open_source(str(tmp_path / "a-*.tar"))
    chosen = open_source(str(selection)).parts
    assert store.missing(chosen) == [0, 1]
    store.save(source.parts[0], features_of(source.parts[0]))
    assert store.missing(chosen) == [1]
    rows = [
        pair.cached.image[0, 0] for pair in store.attached(open_source(str(selection))).parts[0]
    ]
    assert rows == [8 * row for row in ROWS[0]]
    store.save(chosen[1], features_of(chosen[1]))  # has no features of the other rows
    assert store.missing(chosen) == [] and store.missing(source.parts) == [1, 2]


def changed(path, number, **values):
    """Change a line, and the hash at the end with it."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number] |= values
    content = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines[:-1])
    digest = hashlib.sha256(content.encode()).hexdigest()
    path.write_text(content + json.dumps({"sha256": digest}) + "\n")


def test_a_changed_shard_is_refused(selection, shards):
    content = shards[2].read_bytes()
    shards[2].write_bytes(content + bytes(10240))
    message = refused(open_source, str(selection))
    assert "a-2.tar has changed in size or content since" in message
    assert message.endswith("chosen.selection was written; select again")


def test_other_keys_behind_the_same_beginning_are_refused(tmp_path):
    samples = toy_samples() * 2
    samples = [(f"{number:03}", files) for number, (_, files) in enumerate(samples)]
    path = select(
        tmp_path / "a.selection", str(write_shard(tmp_path / "a.tar", samples)), [[1, 95]]
    )
    assert [pair.key for pair in open_source(str(path))] == ["001", "095"]
    write_shard(tmp_path / "a.tar", [*samples[:95], ("zzz", samples[95][1])])
    message = refused(open_source(str(path)).parts[0].__iter__)
    assert "a.tar have changed since" in message and message.endswith("select again")


@pytest.mark.parametrize(
    ("number", "values", "message"),
    [
        (0, {"format": "x"}, "is not a selection of `tinyclip-edge select`"),
        (0, {"version": 2}, "was written by a newer version; upgrade tinyclip-edge"),
        (1, {"rows": []}, "has an invalid line"),
        (1, {"rows": [4, 4]}, "has an invalid line"),
        (1, {"rows": [1, 16]}, "has an invalid line"),
        (1, {"rows": [True]}, "has an invalid line"),
        (1, {"part": 1}, "has changed in size or content"),
        (1, {"part": -1}, "has an invalid line"),
        (1, {"source": "pipe:touch x"}, "runs a command; set data.allow_pipes=true"),
        (1, {"source": "ftp://x/a.tar"}, "only local files, http://, https:// and pipe:"),
        (1, {"source": "chosen.selection"}, "names another selection"),
    ],
)
def test_files_that_are_no_selection(selection, number, values, message):
    changed(selection, number, **values)
    assert message in refused(open_source, str(selection))


@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_a_truncated_file(selection, share):
    content = selection.read_bytes()
    selection.write_bytes(content[: int(share * len(content))])
    assert "selection" in refused(open_source, str(selection))


def test_a_flipped_row(selection):
    selection.write_bytes(selection.read_bytes().replace(b"[1,4,", b"[2,4,"))
    assert "is truncated or has changed; select again" in refused(open_source, str(selection))


def test_captionless_readers_count_the_same_rows(selection):
    keys = [pair.key for pair in open_source(str(selection))]
    options = SourceOptions(captionless=True)
    assert [pair.key for pair in open_source(str(selection), options)] == keys
