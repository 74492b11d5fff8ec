"""SIGKILL of ``tinyclip-edge index`` at any moment, while others search and write."""

import json
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tiny_bundle import write_tiny_bundle
from tinyclip_edge import EdgeCLIP, ImageIndex

KILLS, PICTURES, PATIENCE = 20, 1500, 120  # seconds


def start(*words):
    command = [sys.executable, "-m", "tinyclip_edge", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def paint(path, number):
    # One colour each: the tiny bundle embeds the mean colour.
    Image.new("RGB", (20, 16), (number % 251, number * 7 % 253, number * 31 % 255)).save(path)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle").folder
    photos, path = tmp_path / "photos", tmp_path / "x.npz"
    photos.mkdir()
    for number in range(PICTURES):
        paint(photos / f"{number:04d}.png", number)
    draw = random.Random(0)
    words = ("index", photos, "--into", path, "--bundle", bundle, "--threads", 1)
    journal = tmp_path / ".x.npz.journal"
    killed = 0
    for round_number in range(KILLS):
        run = start(*words)
        end = time.monotonic() + PATIENCE
        while run.poll() is None and not journal.exists() and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.25))
        killed += run.poll() is None
        run.kill()
        run.communicate()
        if path.exists():
            ImageIndex.load(path)
        # Changes between the runs: one is new, one is replaced, one moves, one goes.
        paint(photos / f"new{round_number}.png", 5000 + round_number)
        paint(photos / f"{round_number:04d}.png", 6000 + round_number)
        (photos / f"{100 + round_number:04d}.png").rename(photos / f"moved{round_number}.png")
        (photos / f"{200 + round_number:04d}.png").unlink()
    first, second = start(*words, "--json"), start(*words, "--json")
    outputs = [run.communicate(timeout=PATIENCE) for run in (first, second)]
    codes = sorted(run.returncode for run in (first, second))
    assert codes in ([0, 0], [0, 2]), outputs
    if codes == [0, 2]:
        # "another process" until the first one has written its number.
        assert any("x.npz is in use by" in err for _, err in outputs), outputs
    run = start(*words, "--json")
    report = json.loads(run.communicate(timeout=PATIENCE)[0])
    assert killed >= KILLS // 2 and report["unchanged"] == report["pictures"] == PICTURES
    index = ImageIndex.load(path)
    files = sorted(photos.iterdir())
    assert sorted(index.keys) == list(map(str, files))
    features = EdgeCLIP.load(bundle).encode_image(files)
    rows = {key: row for row, key in enumerate(index.keys)}
    stored = index.features * index.scales[:, None]
    order = [rows[str(file)] for file in files]
    np.testing.assert_allclose(stored[order], features, atol=0.006)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".x.npz.lock",
        "bundle",
        "photos",
        "x.npz",
    ]
