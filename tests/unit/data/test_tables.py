"""CSV, TSV and JSONL files with image paths, and image folders with captions."""

import json

import numpy as np
import pytest
from table_files import CODEC, FORMS, PIXELS, refused, write

from pair_shards import draw, write_shard
from tinyclip_edge.config import DataConfig, load_config
from tinyclip_edge.config.source_options import ColumnsConfig, SourceOptions
from tinyclip_edge.data import PairMemory, StreamingPairs, open_source
from tinyclip_edge.errors import ConfigError, DataError


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_pairs_as_written(tmp_path, images, name):
    source = open_source(str(write(tmp_path / name, FORMS[name](images))))
    pairs = list(source)
    assert [(pair.key, pair.captions) for pair in pairs] == [(i, (c,)) for i, c in images]
    assert source.count().pairs == 48
    assert source.count().exact
    assert source.fits(48)
    assert not source.fits(47)
    memory = PairMemory.load(source, CODEC)
    picture = np.asarray(draw("red", "square", "small").resize((8, 8)))
    assert np.array_equal(memory.images[0].numpy().transpose(1, 2, 0), picture)


def test_a_table_is_streamed_in_parts_each_pair_once_an_epoch(tmp_path, images, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.data.tables.PART", 5)
    source = open_source(str(write(tmp_path / "a.csv", FORMS["a.csv"](images))))
    assert [part.pairs for part in source.parts] == [5] * 9 + [3]
    assert [pair.key for pair in source] == [image for image, _ in images]
    epochs = []
    for start in (0, 3):
        stream = StreamingPairs(source, CODEC, buffer=4).batches(start, 8, seed=1)
        epochs.append([next(stream).keys for _ in range(6 - start)])
    assert epochs[0][3:] == epochs[1]
    keys = [key for batch in epochs[0] for key in batch]
    assert sorted(keys) == sorted(image for image, _ in images)
    assert keys != [image for image, _ in images]


def test_rows_in_turn_of_one_image_are_one_pair(tmp_path, images, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.data.tables.PART", 2)
    lines = ["path,caption"]
    for image, caption in images[:5]:
        lines += [f"{image},{caption}", f'{image},"two,\n lines"', f"{image},{caption}"]
    source = open_source(str(write(tmp_path / "a.csv", lines)))
    assert [part.pairs for part in source.parts] == [2, 2, 1]
    assert [pair.captions for pair in source] == [(c, "two, lines") for _, c in images[:5]]


def test_a_concept_column_is_used(tmp_path, images):
    lines = ["path,caption,concept", f"{images[0][0]},Words,thing", f"{images[1][0]},Words,"]
    pairs = list(open_source(str(write(tmp_path / "a.csv", lines))))
    assert [pair.concept for pair in pairs] == ["thing", "words"]


def test_the_fingerprint_follows_the_content(tmp_path, images):
    prints = []
    for caption in ("one", "one", "two"):
        path = write(tmp_path / "a.csv", ["path,caption", f"{images[0][0]},{caption}"])
        prints.append(open_source(str(path)).fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("name", "content", "expected_message"),
    [
        ("a.csv", b"url,caption\nx,y\n", "no image column (image, filepath, path, file_name); "
                                         "found: url, caption"),
        ("a.tsv", b"image\tname\nx\ty\n", "no caption column (caption, title, text, captions); "
                                          "found: image, name"),
        ("a.csv", b"", "found: the file is empty"),
        ("a.csv", b"path,caption\n", "is empty"),
        ("a.csv", b"path,caption\nIMG\n", "line 2 has 1 columns, but the header has 2"),
        ("a.csv", b"path,caption\nIMG,x\n\n,y\n", "line 4 has no image path in 'path'"),
        ("a.csv", b"path,caption\nIMG,\" \"\n", "line 2 has no caption in 'caption'"),
        ("a.csv", b"path,caption\nIMG,ok\nIMG,caf\xe9\n", "line 3 is not UTF-8"),
        ("a.csv", b"path,caption\nIMG," + b"x" * 200_000 + b"\n", "line 2: field larger than"),
        ("a.jsonl", b'{"path": "IMG", "text": "x"}\n{"path"\n', "line 2 is not valid JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("a.jsonl", b'{"path": "IMG", "text": ' + b"9" * 5000 + b"}\n", "line 1 is not valid JSON"),
        ("a.jsonl", b'{"path": "IMG", "text": "\\udc00"}\n', "line 1 is not UTF-8"),
        ("a.jsonl", b'{"path": "IMG", "text": 7}\n', "used: a number is not text in 'text'"),
        ("a.csv", b"path,caption\nnone.png,x\n", "none of the first 1 images exists; paths"),
        ("a.csv", b"path,caption\nhttps://a.b/c.jpg,x\n", "they are web addresses; download"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, name, content, expected_message):
    (tmp_path / "IMG").write_bytes(PIXELS)
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert str(tmp_path / name) in message
    assert expected_message.removeprefix("found: ") in message


def test_a_caption_of_ten_thousand_characters_is_a_caption(tmp_path):
    (tmp_path / "IMG").write_bytes(PIXELS)
    path = write(tmp_path / "a.csv", ["path,caption", "IMG," + "word " * 2000])
    assert len(next(iter(open_source(str(path)))).captions[0]) == 9_999


def test_missing_and_broken_images_count_as_undecodable(tmp_path, images):
    (tmp_path / images[1][0]).write_bytes(b"nothing")
    (tmp_path / images[2][0]).unlink()
    source = open_source(str(write(tmp_path / "a.csv", FORMS["a.csv"](images))))
    with pytest.raises(DataError, match=f"2 of 48 images .*{images[1][0]}, {images[2][0]}"):
        PairMemory.load(source, CODEC)


BAD_ROWS = {
    "no caption": (b"a.png,", b"a.png\t", b'{"image": "a.png", "caption": " "}'),
    "no image path": (b",words", b"\twords", b'{"caption": "words"}'),
    "is not UTF-8": (
        b"a.png,caf\xe9",
        b"a.png\tcaf\xe9",
        b'{"image": "a.png", "caption": "\xe9"}',
    ),
    "columns": (b"a.png,a,dog", b"a.png", None),
    "not valid JSON": (None, None, b'{"image": "a.png", "cap'),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
@pytest.mark.parametrize(("form", "kind"), list(enumerate(["csv", "tsv", "jsonl"])))
def test_one_faulty_row_of_hundreds_is_skipped_and_two_of_them_are_too_many(
    tmp_path, fault, form, kind, monkeypatch
):
    bad = BAD_ROWS[fault][form]
    if bad is None:
        return
    monkeypatch.setattr("tinyclip_edge.data.tables.PART", 7)
    good = [b"a%d.png,cat %d", b"a%d.png\tcat %d", b'{"image": "a%d.png", "caption": "cat %d"}']
    rows = [good[form] % (number, number) for number in range(150)]
    (tmp_path / "a0.png").write_bytes(PIXELS)
    header = [[b"image,caption"], [b"image\tcaption"], []][form]
    path = tmp_path / f"t.{kind}"
    path.write_bytes(b"\n".join([*header, *rows[:70], bad, *rows[70:]]) + b"\n")
    source = open_source(str(path))
    pairs = list(source)
    assert [pair.captions for pair in pairs] == [(f"cat {number}",) for number in range(150)]
    assert source.count().pairs == 150
    (line,) = source.losses.lines()
    place = 71 + len(header)
    assert f"skipped 1 faulty sample: {path} line {place} " in line
    assert fault in line
    path.write_bytes(b"\n".join([*header, *rows[:70], bad, bad, *rows[70:]]) + b"\n")
    with pytest.raises(DataError, match=r"2 of 152 samples cannot be used \(at most 1%"):
        open_source(str(path))


@pytest.mark.parametrize("form", ["folder", "table"])
def test_the_first_pairs_alone_are_judged_by_all_samples(tmp_path, form, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.data.folders.PART", 50)
    rows = ["image,caption"]
    for number in range(300):
        (tmp_path / f"{number:03}.png").write_bytes(PIXELS)
        bare = number in (3, 4, 5)  # of the first ten, three of 300
        rows.append(f"{number:03}.png,{'' if bare else 'cat'}")
        if form == "folder" and not bare:
            (tmp_path / f"{number:03}.txt").write_text("cat")
    path = tmp_path if form == "folder" else write(tmp_path / "a.csv", rows)
    memory = PairMemory.load(open_source(str(path)), CODEC, limit=10)
    assert len(memory) == 10
    assert "skipped 3 faulty samples" in memory.skipped()[0]
    stream = StreamingPairs(open_source(str(path)), CODEC, buffer=4)
    assert len(next(stream.batches(0, 8, seed=1, distinct=False)).keys) == 8
    stream.final_check()


def test_faults_of_a_small_table_count_beside_those_of_all_sources(tmp_path, images):
    few = write(tmp_path / "few.csv", ["image,caption", f"{images[0][0]},x", f"{images[1][0]},"])
    assert "1 of 2 samples" in refused(few)
    rows = [f"{image},x" for image, _ in images] * 3
    many = write(tmp_path / "many.csv", ["image,caption", *rows])
    assert len(list(open_source([str(few), str(many)]))) == 145


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ";"), ("a.tsv", ","), ("a.csv", "|")])
def test_columns_and_delimiter_are_named_in_the_configuration(tmp_path, images, name, mark):
    rows = [mark.join(("path", "Photo", "alt text")), *(mark.join(("x", i, c)) for i, c in images)]
    path = write(tmp_path / name, rows)
    data = {"train": str(path), "columns": {"image": "photo", "text": "alt text"},
            "delimiter": mark}  # fmt: skip
    config = DataConfig.model_validate(data)
    pairs = list(open_source(config.train, config.source_options))
    assert [(pair.key, pair.captions) for pair in pairs] == [(i, (c,)) for i, c in images]


def test_columns_of_json_lines_are_named_too(tmp_path, images):
    rows = [json.dumps({"text": "x", "image": "y", "file": i, "alt": c}) for i, c in images]
    options = SourceOptions(columns=ColumnsConfig(image="file", text="alt"))
    pairs = list(open_source(str(write(tmp_path / "a.jsonl", rows)), options))
    assert [(pair.key, pair.captions) for pair in pairs] == [(i, (c,)) for i, c in images]


def test_columns_that_are_not_there_are_named(tmp_path, images):
    path = write(tmp_path / "a.csv", ["image;caption", f"{images[0][0]};x"])
    assert "found: image;caption; set data.delimiter to ';'" in refused(path)
    write(path, ["photo,caption", f"{images[0][0]},x"])
    assert "found: photo, caption; rename one, or set data.columns.image" in refused(path)
    with pytest.raises(DataError, match=r"no column 'alt' \(data.columns.text\); found: photo, "):
        open_source(str(path), SourceOptions(columns=ColumnsConfig(image="photo", text="alt")))


def test_parquet_is_called_what_it_is(tmp_path, images):
    (tmp_path / "00000.parquet").write_bytes(b"PAR1" + bytes(100))
    message = (
        "00000.parquet is a parquet table, which is not supported; write paths and captions as .csv"
    )
    assert message in refused(tmp_path / "00000.parquet")
    assert message in refused(tmp_path / "*.parquet")
    assert message in refused(tmp_path)


def test_two_columns_of_one_name_are_refused(tmp_path, images):
    path = write(tmp_path / "a.csv", ["image,caption,Caption", f"{images[0][0]},x,y"])
    assert "has several columns 'Caption'; rename all but one" in refused(path)


@pytest.mark.parametrize("form", ["folder", "shard", "csv", "jsonl"])
def test_a_mark_of_utf8_is_no_part_of_a_caption(tmp_path, form):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.png").write_bytes(PIXELS)
    contents = {"folder": ("a.txt", mark + b"cat"), "csv": ("a.csv", b"caption,image\ncat,a.png"),
                "jsonl": ("a.jsonl", b'{"caption": "cat", "image": "a.png"}')}  # fmt: skip
    path = tmp_path
    if form == "shard":
        path = write_shard(tmp_path / "a.tar", [("a", {"png": PIXELS, "txt": mark + b"cat"})])
    else:
        name, content = contents[form]
        (tmp_path / name).write_bytes(content if form == "folder" else mark + content)
        path = tmp_path if form == "folder" else tmp_path / name
    assert [pair.captions for pair in open_source(str(path))] == [("cat",)]


def test_keys_of_columns_are_refused_by_their_full_name():
    with pytest.raises(ConfigError, match=r"unknown key 'data.columns.imag'; did you mean 'image'"):
        load_config("starter", ["data.columns.imag=x"])
