"""CSV, TSV and JSONL files with image paths, and image folders with captions."""

import json

import numpy as np
import pytest
import torch

from pair_shards import draw, encoded, toy_samples
from tinyclip_edge.data import PairMemory, PixelCodec, StreamingPairs, open_source
from tinyclip_edge.errors import DataError

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
        ("a.jsonl", b'{"path": "IMG", "text": 7}\n', "line 1: a number is no text in 'text'"),
        ("a.csv", b"path,caption\nnone.png,x\n", "none of the first 1 images is there"),
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


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.jsonl"])
def test_a_metadata_file_as_hugging_face_writes_it(tmp_path, images, name):
    rows = [json.dumps({"file_name": image, "text": caption}) for image, caption in images]
    write(tmp_path / name, rows)
    pairs = list(open_source(str(tmp_path)))
    assert [(pair.key, pair.captions) for pair in pairs] == [(i, (c,)) for i, c in images]


def test_folders_that_are_no_pairs(tmp_path, folder):
    (folder / "bare.png").write_bytes(PIXELS)
    message = refused(folder)
    assert "1 of 49 images have no caption, first bare.png" in message
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
    assert "line 1: an object is no text in 'captions'" in refused(
        write(tmp_path / "a.jsonl", rows)
    )
