"""Frames of videos in an index of folders."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from colour_model import counts, expected, names, paint
from PIL import Image

from tinyclip_edge import ImageIndex, index_folders
from tinyclip_edge.collection.copies import copy_pictures
from tinyclip_edge.collection.duplicates import duplicate_groups
from tinyclip_edge.collection.results_page import write_results_page
from tinyclip_edge.errors import DataError, MissingExtraError
from tinyclip_edge.runtime import video
from tinyclip_edge.runtime.hits import Hit
from tinyclip_edge.runtime.video import frame_at, video_frames
from tinyclip_edge.runtime.video_keys import frame_key, is_video_name, shown_key, split_key

COLOURS = [(200, 30, 30), (30, 60, 220), (20, 160, 60), (250, 150, 10)]


def write_video(path, colours=COLOURS, seconds=2, size=(64, 48), gop=5):
    """A video that shows each colour for some seconds, at five frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        stream.bit_rate = 400_000
        for colour in colours:
            picture = av.VideoFrame.from_image(Image.new("RGB", size, colour))
            for _ in range(5 * seconds):
                picture.pts = None
                container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return str(path)


def colour_of(picture):
    return np.asarray(picture, dtype=float).mean(axis=(0, 1))


@pytest.fixture
def clip(photos):
    return write_video(photos / "2019" / "clip.mp4")


def frames_of(path):
    index = ImageIndex.load(path)
    return {key: index.vector(key) for key in index if "#t=" in key}


def check_frames(path, video_path, every):
    """The frames are those of the video's colours, two seconds each."""
    found = frames_of(path)
    times = np.arange(0, 8, every)
    assert list(found) == [f"{video_path}#t={time}" for time in times.tolist()]
    for time, vector in zip(times, found.values(), strict=True):
        np.testing.assert_allclose(vector, expected(COLOURS[int(time // 2)]), atol=0.03)


def test_frames_at_an_interval(model, photos, clip, tmp_path):
    path = tmp_path / "x.npz"
    report = index_folders(model, [photos], path, every=2.0)
    assert counts(report) == {"new": 11}
    assert (report.pictures, report.frames, report.videos, report.skipped) == (10, 4, 1, ())
    check_frames(path, clip, 2.0)
    embedded = model.embedded
    assert counts(index_folders(model, [photos], path, every=2.0)) == {"unchanged": 11}
    assert model.embedded == embedded
    report = index_folders(model, [photos], path, every=4.0)
    assert counts(report) == {"unchanged": 10, "changed": 1} and report.frames == 2
    check_frames(path, clip, 4.0)


def test_a_video_is_followed_like_a_picture(model, photos, clip, tmp_path):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path, every=2.0)
    embedded = model.embedded
    moved = str(photos / "moved.mp4")
    shutil.move(clip, moved)
    assert counts(index_folders(model, [photos], path, every=2.0)) == {"unchanged": 10, "moved": 1}
    check_frames(path, moved, 2.0)
    shutil.copy(moved, clip)
    os.utime(moved, (7, 7))
    report = index_folders(model, [photos], path, every=2.0)
    assert counts(report) == {"unchanged": 11, "new": 1} and report.frames == 8
    assert model.embedded == embedded
    Path(clip).unlink()
    write_video(photos / "moved.mp4", COLOURS[:2])
    report = index_folders(model, [photos], path, every=2.0)
    assert counts(report) == {"unchanged": 10, "changed": 1, "deleted": 1} and report.frames == 2
    assert names(tmp_path) == [".x.npz.lock", "photos", "x.npz"]


def test_damaged_videos_are_listed_and_skipped(model, photos, clip, tmp_path):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path, every=2.0)
    content = Path(clip).read_bytes()
    Path(clip).write_bytes(content[: len(content) // 2])
    (photos / "text.mkv").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (photos / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    (photos / "empty.avi").touch()
    report = index_folders(model, [photos], path, every=2.0)
    assert report.frames == 0 and counts(report) == {"unchanged": 10}
    reasons = {Path(entry.key).name: entry.reason for entry in report.skipped}
    assert set(reasons) == {"clip.mp4", "text.mkv", "list.mp4", "empty.avi"}
    assert all("cannot be decoded" in reason for reason in reasons.values())


def test_videos_are_counted_without_the_package(model, photos, clip, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    index_folders(model, [photos], path, every=2.0)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("tinyclip_edge.collection.folder_index.can_read_videos", lambda: False)
    report = index_folders(model, [photos], path, every=3.0)
    assert (report.unread_videos, report.videos, report.frames) == (1, 0, 4)
    assert counts(report) == {"unchanged": 10}
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyclip-edge\[video\]'"):
        frame_at(clip, 0)
    (tmp_path / "films").mkdir()
    shutil.move(clip, tmp_path / "films" / "clip.mp4")
    with pytest.raises(DataError, match=r"no picture in .*films, but 1 videos: pip install"):
        index_folders(model, [tmp_path / "films"], tmp_path / "y.npz")


def test_a_folder_of_videos_alone(model, tmp_path):
    write_video(tmp_path / "films" / "a.MOV")
    write_video(tmp_path / "films" / ".hidden.mov")
    report = index_folders(model, [tmp_path / "films"], tmp_path / "x.npz")
    assert (report.pictures, report.frames) == (0, 1)


@pytest.mark.parametrize("gop", [5, 1000])
@pytest.mark.parametrize("seek_from", [0.1, 100])
def test_frames_are_the_same_with_and_without_seeking(tmp_path, monkeypatch, gop, seek_from):
    path = write_video(tmp_path / "a.mkv", gop=gop)
    monkeypatch.setattr(video, "SEEK_FROM", seek_from)
    found = list(video_frames(path, 0.6))
    assert [round(time, 3) for time, _ in found] == [round(0.6 * n, 3) for n in range(14)]
    for time, picture in found:
        shown = COLOURS[int((time + 0.199) // 2)] if time % 0.2 > 0.001 else COLOURS[int(time / 2)]
        assert np.abs(colour_of(picture) - shown).max() < 12
        assert picture.tobytes() == frame_at(path, time).tobytes()


def test_bounds(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr(video, "MOST_FRAMES", 10)
    with pytest.raises(DataError, match=r"a\.mp4 has more than 10 frames at an interval of 0.5 s"):
        list(video_frames(path, 0.5))
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match=r"a\.mp4 has 64x48 pixels; at most 1,000 are opened"):
        list(video_frames(path, 2))
    with pytest.raises(DataError, match="no such video"):
        frame_at(str(tmp_path / "none.mp4"), 0)
    monkeypatch.undo()
    with pytest.raises(DataError, match="has no frame at 9 s"):
        frame_at(path, 9)


def test_keys(tmp_path):
    assert frame_key("a/clip.mp4", 0.1 + 0.2) == "a/clip.mp4#t=0.3"
    assert split_key("a/clip.MP4#t=12.0") == ("a/clip.MP4", 12.0)
    for key in ("a/clip.mp4", "a#t=1.png", "clip.txt#t=1", "clip.mp4#t=x", "clip.mp4#t=1.png"):
        assert split_key(key) == (key, None) and shown_key(key) == key
    assert shown_key("clip.mp4#t=12.0") == "clip.mp4 at 0:12"
    assert shown_key("clip.mp4#t=3725.5") == "clip.mp4 at 1:02:05.5"
    assert is_video_name("a.MkV") and not is_video_name("._a.mkv") and not is_video_name("a.ts")


def test_what_becomes_of_a_frame(clip, tmp_path, photos):
    key = f"{clip}#t=2.0"
    gone = f"{photos}/gone.mp4#t=2.0"
    assert copy_pictures([str(photos / "2019" / "0.png"), key, gone], tmp_path / "copies") == [gone]
    assert names(tmp_path / "copies") == ["01-0.png", "02-clip.mp4-2.0s.png"]
    with Image.open(tmp_path / "copies" / "02-clip.mp4-2.0s.png") as picture:
        assert np.abs(colour_of(picture) - COLOURS[1]).max() < 12
    write_results_page(tmp_path / "page.html", "x", [Hit(key, 0.5), Hit(gone, 0.25)])
    page = (tmp_path / "page.html").read_text()
    assert f'href="{(photos / "2019" / "clip.mp4").as_uri()}#t=2.0"' in page
    assert f"{clip} at 0:02" in page and "no such video" in page


def test_frames_of_one_video_are_no_duplicates():
    vectors = np.ones((4, 3), np.float32) / np.sqrt(3, dtype=np.float32)
    vectors[3] = [1, 0, 0]
    keys = ("a.mp4#t=0.0", "a.mp4#t=2.0", "b.mp4#t=0.0", "c.mp4#t=0.0")
    index = ImageIndex(keys, vectors, "m")
    assert duplicate_groups(index[[0, 1, 3]]) == []
    assert duplicate_groups(index) == [keys[:3]]


def test_the_commands_show_times(
    command_line, photos, clip, tmp_path, shared_tiny_bundle, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ("index", photos, "--every", 2, "--bundle", shared_tiny_bundle.folder)
    code, out, _ = command_line(*words)
    assert code == 0 and "10 pictures and 4 frames of videos (11 new)" in out
    paint(tmp_path / "query.png", *COLOURS[2])
    line = ("search", "--image", "query.png", "--top", 1, "--min-score", 0.9)
    code, out, _ = command_line(*line)
    assert code == 0 and out.split("  ")[-1] == f"{clip} at 0:04\n"
    code, out, _ = command_line(*line, "--json")
    result = json.loads(out)["results"][0]
    assert (result["image"], result["video"], result["seconds"]) == (f"{clip}#t=4.0", clip, 4.0)


def test_pictures_of_an_unknown_kind_are_refused(tmp_path):
    path = Path(write_video(tmp_path / "a.mkv"))
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/ASP", b"V_" + b"\xff" * 13))
    with pytest.raises(DataError, match="unknown kind"):
        next(video_frames(str(path), 1.0))


def test_notes_in_a_video_that_are_no_utf8_are_passed_over(tmp_path):
    path = Path(write_video(tmp_path / "a.mkv"))
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\x97avf"))
    assert colour_of(frame_at(str(path), 0)) == pytest.approx(COLOURS[0], abs=12)


def test_a_pipe_is_no_video(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(DataError, match="is not a file"):
        frame_at(str(tmp_path / "a.mp4"), 0)


def test_a_copied_frame_is_decoded_once(photos, clip, tmp_path, monkeypatch):
    from tinyclip_edge.collection import copies

    decoded = []

    def counted(path, seconds):
        decoded.append(seconds)
        return frame_at(path, seconds)

    monkeypatch.setattr(copies, "frame_at", counted)
    assert not copy_pictures([frame_key(clip, 2.0), frame_key(clip, 4.0)], tmp_path / "copies")
    assert decoded == [2.0, 4.0]


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0), (0, 0)),  # a quarter clockwise: the left side becomes the upper one
        ((0, -1, 1, 0), (0, -1)),
        ((-1, 0, 0, -1), (-1, 0)),
    ],
)
def test_turned_videos_are_upright(tmp_path, matrix, corner):
    """As phones write them: the display matrix of the track, in its header."""
    picture = Image.new("RGB", (64, 48), "blue")
    picture.paste("red", (0, 0, 32, 48))
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # version, times, track, duration, layer, volume
    a, b, c, d = ((number << 16).to_bytes(4, "big", signed=True) for number in matrix)
    content[start : start + 20] = a + b + bytes(4) + c + d
    path.write_bytes(content)
    frame = next(video_frames(str(path), 1.0))[1]
    assert frame.size == ((64, 48) if matrix[0] else (48, 64))
    red = np.asarray(frame)[corner[1], corner[0]].astype(int)
    assert red[0] > 200 and red[2] < 60
    assert frame_at(str(path), 0.0).size == frame.size
