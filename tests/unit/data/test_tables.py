"""CSV, TSV and JSONL files with image paths, and image folders with captions."""

import json

import numpy as np
import pytest
import torch

from pair_shards import draw, encoded, toy_samples, write_shard
from tinyclip_edge.config import DataConfig, load_config
from tinyclip_edge.config.source_options import ColumnsConfig, SourceOptions
from tinyclip_edge.data import Count, PairMemory, PixelCodec, StreamingPairs, open_source
from tinyclip_edge.errors import ConfigError, DataError

PIXELS = encoded(draw("red", "bar", "big"))


def small(image):
    pixels = np.asarray(image.convert("RGB").resize((8, 8)), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


CODEC = PixelCodec(small, (0, 0, 0), (1, 1, 1))


@pytest.fixture
def images(tmp_path):
    """The 48 toy pictures as files; returns their relative paths and first captions."""
    rows = []
    for key, files in toy_samples():
        path = tmp_path / "img" / f"{key}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(files["png"])
        rows.append((f"img/{key}.png", files["txt"].decode().splitlines()[0]))
    return rows


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refused(source):
    with pytest.raises(DataError) as caught:
        list(open_source(str(source)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


FORMS = {
    "a.csv": lambda rows: ["id,image,caption", *(f"7,{i},{c}" for i, c in rows)],
    "b.csv": lambda rows: ["filepath\ttitle", *(f"{i}\t{c}" for i, c in rows)],
    "a.tsv": lambda rows: ["Path\tText", *(f'{i}\t"{c}"' for i, c in rows)],
    "a.jsonl": lambda rows: [json.dumps({"captions": [c], "file_name": i}) for i, c in rows],
    "b.jsonl": lambda rows: ["", *(json.dumps({"path": i, "text": c}) for i, c in rows), ""],
}


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
    whole = np.asarray(draw("red", "square", "small").resize((8, 8)))
    assert np.array_equal(memory.images[0].numpy().transpose(1, 2, 0), whole)


def test_a_table_is_streamed_in_parts_each_pair_once_an_epoch(tmp_path, images, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.data.tables.PART", 5)
    source = open_source(str(write(tmp_path / "a.csv", FORMS["a.csv"](images))))
    assert [part.pairs for part in source.parts] == [5] * 9 + [3]
    assert [pair.key for pair in source] == [image for image, _ in images]
    drawn = []
    for start in (0, 3):
        stream = StreamingPairs(source, CODEC, buffer=4).batches(start, 8, seed=1)
        drawn.append([next(stream).keys for _ in range(6 - start)])
    assert drawn[0][3:] == drawn[1]
    keys = [key for batch in drawn[0] for key in batch]
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


def test_a_mark_of_utf8_is_no_part_of_a_column(tmp_path, images):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,caption\r\n" + f"{images[0][0]},caf\u00e9\r\n".encode())
    assert [pair.captions for pair in open_source(str(path))] == [("caf\u00e9",)]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"url,caption\nx,y\n", "no image column (image, filepath, path, file_name); "
                                         "found: url, caption"),
        ("a.tsv", b"image\tname\nx\ty\n", "no caption column (caption, title, text, captions); "
                                          "found: image, name"),
        ("a.csv", b"", "found: the file is empty"),
        ("a.csv", b"path,caption\n", "is empty"),
        ("a.csv", b"path,caption\nIMG\n", "line 2 has 1 columns, the header 2"),
        ("a.csv", b"path,caption\nIMG,x\n\n,y\n", "line 4 has no image path in 'path'"),
        ("a.csv", b"path,caption\nIMG,\" \"\n", "line 2 has no caption in 'caption'"),
        ("a.csv", b"path,caption\nIMG,ok\nIMG,caf\xe9\n", "line 3 is not UTF-8"),
        ("a.csv", b"path,caption\nIMG," + b"x" * 200_000 + b"\n", "line 2: field larger than"),
        ("a.jsonl", b'{"path": "IMG", "text": "x"}\n{"path"\n', "line 2 is no JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is no JSON object"),
        ("a.jsonl", b'{"path": "IMG", "text": ' + b"9" * 5000 + b"}\n", "line 1 is no JSON"),
        ("a.jsonl", b'{"path": "IMG", "text": "\\udc00"}\n', "line 1 is not UTF-8"),
        ("a.jsonl", b'{"path": "IMG", "text": 7}\n', "used: a number is no text in 'text'"),
        ("a.csv", b"path,caption\nnone.png,x\n", "none of the first 1 images is there; paths"),
        ("a.csv", b"path,caption\nhttps://a.b/c.jpg,x\n", "they are web addresses; img2dataset"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, name, content, told):
    (tmp_path / "IMG").write_bytes(PIXELS)
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert str(tmp_path / name) in message
    assert told.removeprefix("found: ") in message


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
    "no JSON": (None, None, b'{"image": "a.png", "cap'),
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


def test_a_folder_skips_one_faulty_caption_of_hundreds(tmp_path, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.data.folders.PART", 50)
    for number in range(150):
        (tmp_path / f"{number:03}.png").write_bytes(PIXELS)
        (tmp_path / f"{number:03}.txt").write_text(f"cat {number}")
    (tmp_path / "120.txt").write_bytes(b"caf\xe9")
    source = open_source(str(tmp_path))
    assert source.count() == Count(150, exact=False)
    assert len(list(source)) == 149
    (line,) = source.losses.lines()
    assert f"skipped 1 faulty sample: caption {tmp_path}/120.txt cannot be read" in line
    (tmp_path / "020.txt").unlink()
    assert "2 of 150 samples cannot be used" in refused(tmp_path)


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


@pytest.fixture
def folder(tmp_path, images):
    for image, caption in images:
        (tmp_path / image).with_suffix(".txt").write_text(f"{caption}\nsecond\n")
    return tmp_path / "img"


def test_captions_beside_the_images_of_a_folder(folder, images):
    (folder / "deep").mkdir()
    (folder / "deep" / "a.JPG").write_bytes(PIXELS)
    (folder / "deep" / "a.txt").write_text("A Bar")
    source = open_source(str(folder))
    wanted = {image.removeprefix("img/"): (caption, "second") for image, caption in images}
    wanted["deep/a.JPG"] = ("A Bar",)
    pairs = list(source)
    assert {pair.key: pair.captions for pair in pairs} == wanted
    assert [pair.key for pair in pairs] == sorted(wanted)
    assert pairs[[p.key for p in pairs].index("deep/a.JPG")].concept == "a bar"
    assert source.count().pairs == 49
    assert len(PairMemory.load(source, CODEC)) == 49


def test_every_spelling_is_seen_and_what_is_left_out_is_counted(folder, images):
    for name in ("A.JPG", "B.Bmp", "deep/C.TIF"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(PIXELS)
        (folder / name).with_suffix(".TXT").write_text(f"of {name}")
    apple = b"\0\x05\x16\x07\0\x02\0\0Mac OS X"
    for name in ("._A.JPG", "._A.TXT", "deep/._C.TIF", ".DS_Store", ".hidden/x.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(apple)
    for name in ("d.svg", "e.SVG", "e.txt", "README"):
        (folder / name).write_text("words")
    source = open_source(str(folder))
    memory = PairMemory.load(source, CODEC)
    assert len(memory) == 51
    of = {pair.key: pair.captions for pair in source}
    assert [of[name] for name in ("A.JPG", "B.Bmp", "deep/C.TIF")] == [
        ("of A.JPG",), ("of B.Bmp",), ("of deep/C.TIF",)]  # fmt: skip
    assert memory.skipped() == [
        f"folder {folder}: left out files that are no pair: "
        "4 hidden, 2 .svg, 1 without suffix, 1 .txt"
    ]


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.jsonl"])
def test_a_metadata_file_as_hugging_face_writes_it(tmp_path, images, name):
    rows = [json.dumps({"file_name": image, "text": caption}) for image, caption in images]
    write(tmp_path / name, rows)
    source = open_source(str(tmp_path))
    assert [(pair.key, pair.captions) for pair in source] == [(i, (c,)) for i, c in images]
    assert source.losses.lines() == []
    write(tmp_path / name, rows[:40])
    assert open_source(str(tmp_path)).losses.lines() == [
        f"{tmp_path / name} has no row of 8 of 48 images there"
    ]


def test_folders_that_are_no_pairs(tmp_path, folder):
    (folder / "bare.png").write_bytes(PIXELS)
    message = refused(folder)
    assert "1 of 49 samples cannot be used" in message
    assert "bare.png has no caption (bare.txt)" in message
    for text in folder.glob("*.txt"):
        text.unlink()
    assert "49 images without captions: class folders are no pairs" in refused(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "has no images" in refused(tmp_path / "empty")


@pytest.mark.parametrize(("text", "told"), [(b" \n", "is empty"), (b"\xff", "cannot be read")])
def test_a_caption_file_without_a_caption(folder, text, told):
    broken = next(folder.glob("*.txt"))
    broken.write_bytes(text)
    message = refused(folder)
    assert str(broken) in message
    assert told in message


def test_sources_of_several_kinds_under_one_name(tmp_path, folder, images):
    table = write(tmp_path / "a.csv", FORMS["a.csv"](images))
    source = open_source([str(folder), str(table)])
    assert source.count().pairs == 96
    assert len(list(source)) == 96


def test_quotes_of_a_tsv_are_letters(tmp_path, images):
    texts = ['"To be" he said', '"open', 'say ""hi""', '"a ""b"" c"', '5" nails']
    rows = [f"{image}\t{text}" for (image, _), text in zip(images, texts, strict=False)]
    source = open_source(str(write(tmp_path / "a.tsv", ["image\tcaption", *rows])))
    wanted = ['"To be" he said', '"open', 'say ""hi""', 'a "b" c', '5" nails']
    assert [pair.captions for pair in source] == [(text,) for text in wanted]


def test_a_csv_quote_that_is_none_is_refused_with_its_line(tmp_path, images):
    rows = [f"{images[0][0]},fine", f'{images[1][0]},"To be" he said', f'{images[2][0]},"more"']
    message = refused(write(tmp_path / "a.csv", ["image,caption", *rows]))
    assert "a.csv line 3: " in message and "written twice" in message


def test_captions_that_are_objects_are_refused_with_their_line(tmp_path, images):
    rows = [json.dumps({"image": images[0][0], "captions": [{"id": 0, "caption": "a dog"}]})]
    assert "line 1 cannot be used: an object is no text in 'captions'" in refused(
        write(tmp_path / "a.jsonl", rows)
    )


CSV_FAULTS = {
    "glued to the end": ['{2},"To be', "{3},x", '{4},not to be"'],
    "caption first": ['"To be,{2}', "x,{3}", 'or not",{4}'],
    "every cell in quotes": ['"{2}","To be', '"{3}","x"', '"{4}","y"'],
    "no second quote": ['{2},"To be', "{3},x", "{4},y"],
    "a quote in the line": ['{2},"To be" he said', "{3},x", "{4},y"],
}


@pytest.mark.parametrize("rows", CSV_FAULTS.values(), ids=CSV_FAULTS)
def test_a_csv_record_that_swallows_lines_is_refused_with_its_lines(tmp_path, images, rows):
    header = "caption,image" if rows[1].startswith("x") else "image,caption"
    first = f"ok,{images[0][0]}" if header.startswith("c") else f"{images[0][0]},ok"
    names = [image for image, _ in images]
    path = write(tmp_path / "a.csv", [header, first, *(row.format(*names) for row in rows)])
    message = refused(path)
    assert "a.csv line 3: " in message or "a.csv lines 3 to " in message
    assert "in quotes" in message and "JSON lines" in message


def test_line_breaks_inside_quotes_are_blanks_whatever_the_columns(tmp_path, images):
    for header, row in (
        ("image,caption", '{},"one, two\n\nthree, ""four"""'),
        ("caption,image", '"one, two\n\nthree, ""four""",{}'),
        ("id,caption,image", '7,"one, two\n\nthree, ""four""",{}'),
    ):
        rows = [row.format(image) for image, _ in images]
        pairs = list(open_source(str(write(tmp_path / "a.csv", [header, *rows]))))
        assert [(p.key, p.captions) for p in pairs] == [
            (image, ('one, two three, "four"',)) for image, _ in images
        ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_old_line_ends_and_other_letters_are_named(tmp_path, images, name):
    path = write(tmp_path / name, FORMS[name](images))
    text = path.read_text()
    path.write_bytes(text.replace("\n", "\r").encode())
    assert refused(path) == (
        f"{path} ends its lines with CR alone, as old Macs did; write it with LF: tr '\\r' '\\n'"
    )
    path.write_bytes(text.encode("utf-16"))
    assert refused(path) == f"{path} is UTF-16; save it as UTF-8"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert len(list(open_source(str(path)))) == 48


def test_a_cr_inside_a_csv_is_named(tmp_path, images):
    path = write(tmp_path / "a.csv", ["image,caption", f"{images[0][0]},a\rb"])
    assert "line 2: a CR stands inside a line; end lines with LF" in refused(path)


def test_a_tsv_cell_over_two_lines_is_refused(tmp_path, images):
    rows = [f'{images[0][0]}\t"first', 'second"', f"{images[1][0]}\tx"]
    assert "lines 2 to 3: a cell in quotes goes on over the end of its line" in refused(
        write(tmp_path / "a.tsv", ["image\tcaption", *rows])
    )


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


def test_metadata_one_level_down_is_named(tmp_path, images):
    rows = ["file_name,text", *(f"{image},{caption}" for image, caption in images)]
    (tmp_path / "img").rename(tmp_path / "train")
    write(tmp_path / "train" / "metadata.csv", [row.removeprefix("img/") for row in rows])
    assert refused(tmp_path) == (
        f"folder {tmp_path} has no metadata.csv of its own, 1 of the folders in it has one; "
        f"give {tmp_path}/train"
    )
    assert len(list(open_source(str(tmp_path / "train")))) == 48


def test_parquet_is_called_what_it_is(tmp_path, images):
    (tmp_path / "00000.parquet").write_bytes(b"PAR1" + bytes(100))
    told = "00000.parquet is a parquet table, which is not read; write paths and captions as .csv"
    assert told in refused(tmp_path / "00000.parquet")
    assert told in refused(tmp_path / "*.parquet")
    assert told in refused(tmp_path)


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


def test_keys_of_columns_are_refused_by_their_whole_name():
    with pytest.raises(ConfigError, match=r"unknown key 'data.columns.imag'; did you mean 'image'"):
        load_config("starter", ["data.columns.imag=x"])


def test_the_first_faulty_lines_are_named_in_their_order(tmp_path, images):
    rows = [f"{image}," for image, _ in images[:12]]
    message = refused(write(tmp_path / "a.csv", ["image,caption", *rows]))
    places = [part.split(" has")[0] for part in message.split("a.csv line ")[1:]]
    assert places == ["2", "3", "4", "5", "6"] and message.endswith("and 7 more")
