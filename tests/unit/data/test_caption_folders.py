"""Folders of images with captions beside them or in a metadata file."""

import json

import pytest
from table_files import CODEC, FORMS, PIXELS, refused, write

from tinyclip_edge.data import Count, PairMemory, open_source


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
    expected = {image.removeprefix("img/"): (caption, "second") for image, caption in images}
    expected["deep/a.JPG"] = ("A Bar",)
    pairs = list(source)
    assert {pair.key: pair.captions for pair in pairs} == expected
    assert [pair.key for pair in pairs] == sorted(expected)
    assert pairs[[p.key for p in pairs].index("deep/a.JPG")].concept == "a bar"
    assert source.count().pairs == 49
    assert len(PairMemory.load(source, CODEC)) == 49


def test_every_spelling_is_accepted_and_what_is_skipped_is_counted(folder, images):
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
        f"folder {folder}: skipped files that do not belong to a pair: "
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
        f"{tmp_path / name} has no row for 8 of 48 images in the folder"
    ]


def test_folders_that_are_no_pairs(tmp_path, folder):
    (folder / "bare.png").write_bytes(PIXELS)
    message = refused(folder)
    assert "1 of 49 samples cannot be used" in message
    assert "bare.png has no caption (bare.txt)" in message
    for text in folder.glob("*.txt"):
        text.unlink()
    assert "49 images without captions: class folders do not contain pairs" in refused(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "has no images" in refused(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "expected_message"), [(b" \n", "is empty"), (b"\xff", "cannot be read")]
)
def test_a_caption_file_without_a_caption(folder, text, expected_message):
    broken = next(folder.glob("*.txt"))
    broken.write_bytes(text)
    message = refused(folder)
    assert str(broken) in message
    assert expected_message in message


def test_sources_of_several_kinds_under_one_name(tmp_path, folder, images):
    table = write(tmp_path / "a.csv", FORMS["a.csv"](images))
    source = open_source([str(folder), str(table)])
    assert source.count().pairs == 96
    assert len(list(source)) == 96


def test_metadata_one_level_down_is_named(tmp_path, images):
    rows = ["file_name,text", *(f"{image},{caption}" for image, caption in images)]
    (tmp_path / "img").rename(tmp_path / "train")
    write(tmp_path / "train" / "metadata.csv", [row.removeprefix("img/") for row in rows])
    assert refused(tmp_path) == (
        f"folder {tmp_path} has no metadata.csv of its own, but 1 of the folders in it has one; "
        f"use {tmp_path}/train"
    )
    assert len(list(open_source(str(tmp_path / "train")))) == 48
