"""Uploads: what is refused, and in which words."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib

import pytest
from PIL import Image

from tinyclip_demo import uploads
from tinyclip_demo.galleries import MAX_VISITOR_GALLERIES, Galleries
from tinyclip_demo.gallery import Gallery, uploaded_gallery
from tinyclip_demo.uploads import open_upload
from tinyclip_edge.errors import DataError


def encoded(image, kind="png"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png_of_size(width, height):
    """A PNG that claims a size and holds nothing of it."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff"])
def test_images_open_as_rgb(tmp_path, kind):
    path = tmp_path / "upload"
    path.write_bytes(encoded(Image.new("RGB", (6, 4), "red"), kind))
    opened = open_upload(str(path))
    assert (opened.mode, opened.size) == ("RGB", (6, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"just some text", "not a supported image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a supported image"),
        (
            encoded(Image.new("RGB", (90, 90), "red"))[:80],
            "cannot be decoded|not a supported image",
        ),
        (png_of_size(8000, 6000), "8,000 × 6,000 pixels: at most 40 million"),
        (png_of_size(60000, 60000), "too many pixels"),
        (png_of_size(1, 5000), "1 × 5,000 pixels: too long and thin"),
        (png_of_size(0, 5), "not a supported image|cannot be decoded|empty"),
    ],
)
def test_what_is_no_picture_is_reported_without_the_server_s_path(tmp_path, content, message):
    path = tmp_path / "secret-folder-name"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_upload(str(path))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_gone_and_large_uploads(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no image yet"):
        open_upload(None)
    with pytest.raises(DataError, match="upload it again"):
        open_upload(str(tmp_path / "gone"))
    monkeypatch.setattr(uploads, "MAX_UPLOAD_MB", 0)
    (tmp_path / "large").write_bytes(b"x")
    with pytest.raises(DataError, match="has 1 B: at most 0 B are read"):
        open_upload(str(tmp_path / "large"))


# In a process of its own: what earlier tests freed may serve the picture.
MEMORY = """
import sys
import psutil
from tinyclip_demo import uploads

def megabytes():
    return psutil.Process().memory_info().rss / 1.024e6

before = megabytes()
opened = uploads.open_upload(sys.argv[1])
during = megabytes()
del opened
uploads.release_memory()
print(during - before, megabytes() - before)
"""


def test_memory_of_a_large_picture_goes_back_to_the_system(tmp_path):
    # 36 million pixels: 108 MB as RGB
    Image.new("RGB", (6000, 6000)).save(tmp_path / "large.png")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    during, after = map(float, done.stdout.split())
    assert during > 100
    assert after < 30


def test_dropped_files_stay_in_memory(tmp_path):
    (tmp_path / "red_apple.png").write_bytes(encoded(Image.new("RGB", (6, 4), "red")))
    (tmp_path / "notes.txt").write_text("no picture")
    gallery = uploaded_gallery([tmp_path / "red_apple.png", tmp_path / "notes.txt"])
    (tmp_path / "red_apple.png").unlink()
    assert (gallery.captions, gallery.skipped) == (("red apple",), ("notes.txt",))
    assert gallery.picture(0).size == (6, 4)
    with pytest.raises(DataError, match="none of the 1 files"):
        uploaded_gallery([tmp_path / "notes.txt"])


def test_too_many_dropped_files_or_bytes(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="501 files are too many"):
        uploaded_gallery([tmp_path / "x"] * 501)
    monkeypatch.setattr("tinyclip_demo.gallery.MAX_UPLOAD_BYTES", 3)
    (tmp_path / "x").write_bytes(b"1234")
    with pytest.raises(DataError, match="--images FOLDER"):
        uploaded_gallery([tmp_path / "x"])


def test_the_oldest_brought_gallery_makes_room(tmp_path):
    own = Gallery("own", (Image.new("RGB", (1, 1)),), ("a",))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (6, 4), "red")))
    galleries = Galleries(own)
    keys = [galleries.drop([str(path)]) for _ in range(MAX_VISITOR_GALLERIES + 1)]
    assert galleries.get(None) is own
    assert galleries.get(keys[-1]).captions == ("a",)
    with pytest.raises(DataError, match="drop them again"):
        galleries.get(keys[0])
    assert len(galleries.get(galleries.open_folder(str(tmp_path)))) == 1
    with pytest.raises(DataError, match="no folder"):
        galleries.open_folder(" ")


def test_of_a_large_upload_no_more_than_the_limit_is_read(tmp_path):
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.truncate(3_000_000_000)  # takes no space on the disk
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"^the upload has 3.00 GB: at most 20.0 MB are read$"):
            open_upload(str(path))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing", "null byte"])
def test_an_upload_that_is_no_file_is_gone(tmp_path, kind):
    path = tmp_path / "secret"
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(DataError, match=r"^the upload is gone: upload it again$"):
        open_upload(f"{path}\0" if kind == "null byte" else str(path))
