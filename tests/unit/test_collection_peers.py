"""The parts of the benchmark ``collection_peers`` that need no other program."""

from __future__ import annotations

import sys

import pytest
from PIL import Image

import collection_peers
import collection_programs
from pair_shards import encoded, write_shard


def test_a_command_is_measured(tmp_path):
    program = "import time; x = bytearray(60_000_000); time.sleep(0.2); print(1)"
    found = collection_peers.measured([sys.executable, "-c", program], tmp_path, {})
    assert found["seconds"] >= 0.2 and found["cpu_seconds"] > 0 and found["peak_mb"] > 57
    for program in ("raise SystemExit(3)", "pass"):  # a command that prints nothing found nothing
        with pytest.raises(SystemExit, match="failed"):
            collection_peers.measured([sys.executable, "-c", program], tmp_path, {})


def test_photos_have_the_size_of_a_camera(tmp_path):
    picture = encoded(Image.new("RGB", (40, 20), "red"), "JPEG")
    samples = [(f"{number}", {"JPEG": picture, "txt": b"x"}) for number in range(3)]
    write_shard(tmp_path / "imagenet-1k-sample.tar", samples)
    write_shard(tmp_path / "tiny-imagenet-200" / "train-00.tar", samples)
    folders = collection_peers.collection_folders(tmp_path, 1, 2)
    collection_peers.write_collections(tmp_path, *folders, 1, 2)
    assert [len(list(folder.iterdir())) for folder in folders] == [1, 2]
    with Image.open(folders[0] / "00000.jpg") as photo:
        assert photo.size == (4032, 3024)
    assert (folders[1] / "00001.jpg").read_bytes() == picture


def test_each_program_has_an_environment_and_commands_of_its_own(tmp_path):
    peers = collection_programs.peers(tmp_path)
    assert [peer.label for peer in peers[2:]] == ["rclip", "fastembed", "imgsearch"]
    commands = [peer.commands(tmp_path) for peer in peers]
    assert all(index != search for index, search in commands)
    assert len({str(search) for _, search in commands}) == len(peers)
