"""Galleries: what is read, what is skipped, and how a picture looks."""

import base64
import io
import os

import pytest
from PIL import Image

from tinyclip_demo import gallery as gallery_module
from tinyclip_demo.gallery import Gallery, folder_gallery
from tinyclip_edge.errors import DataError


def save(path, colour="red", size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_is_read_with_its_subfolders_and_bad_files_are_counted(tmp_path, capsys):
    save(tmp_path / "red_apple.png")
    save(tmp_path / "trip" / "old-boat.JPG", "blue")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "empty.webp").touch()
    (tmp_path / "notes.txt").write_text("no picture, not counted")
    gallery = folder_gallery(tmp_path)
    assert gallery.captions == ("red apple", "old boat")
    assert len(gallery.skipped) == 2
    assert "skipped 2 of 4 files" in capsys.readouterr().err


def test_a_folder_that_is_missing_or_has_no_picture(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        folder_gallery(tmp_path / "nowhere")
    (tmp_path / "broken.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="no readable image"):
        folder_gallery(tmp_path)


def test_thumbnails_are_small_pictures_in_a_data_address():
    gallery = Gallery("one", (Image.new("RGB", (400, 200), "green"),), ("field",))
    kind, data = gallery.thumbnail(0, 100).split(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (100, 50)


def test_examples_are_familiar_names_first_then_a_spread():
    names = [f"thing {i}" for i in range(50)]
    pictures = (Image.new("RGB", (1, 1)),) * 52
    gallery = Gallery("kit", pictures, (*names, "umbrella", "cat face"))
    assert gallery.examples(4) == (51, 50, 0)
    gallery = Gallery("holiday", pictures, (*names, "beach", "hut"))
    assert gallery.examples(4) == (0, 17, 34, 51)


def test_a_broken_picture_is_no_example():
    gallery = Gallery("two", (b"junk", Image.new("RGB", (1, 1))), ("a", "b"))
    assert gallery.examples() == (1,)


def test_an_empty_gallery_is_refused():
    with pytest.raises(DataError, match="has no readable image"):
        Gallery("none", (), ())


def test_captions_beside_pictures_are_read_up_to_a_limit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gallery_module, "CAPTION_BYTES", 1000)
    for name in ("a-fox", "b_owl", "old-cat", "two-dogs", "zebra"):
        save(tmp_path / f"{name}.png")
    (tmp_path / "a-fox.txt").write_text("a red fox\nmore lines")
    (tmp_path / "b_owl.txt").write_text("o" * 1001)
    (tmp_path / "old-cat.txt").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "two-dogs.txt")  # would be waited for
    (tmp_path / "zebra.txt").write_text("z" * 1000)
    gallery = folder_gallery(tmp_path)
    assert gallery.captions == ("a red fox", "b owl", "old cat", "two dogs", "z" * 200)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("3 caption files cannot be read; file names serve as captions")
    assert lines[0].endswith("b_owl.txt: it has more than 1,000 bytes")
