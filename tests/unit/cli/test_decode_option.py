"""``--decode`` of ``tinyclip-edge index``: one mode an index, and photos beyond the limit."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tinyclip_edge import EdgeCLIP, ImageIndex
from tinyclip_edge.runtime import image_limits


def test_an_index_has_one_decode_mode(command_line, photos, shared_tiny_bundle):
    Image.effect_mandelbrot((320, 240), (-2, -1.5, 1, 1.5), 99).save(photos / "fractal.jpg")
    words = ("index", "photos", "--bundle", shared_tiny_bundle.folder)
    assert command_line(*words)[0] == 0
    index = ImageIndex.load("pictures")
    assert index.decode == "fast"
    code, _, err = command_line(*words, "--decode", "exact")
    assert code == 2 and "pictures.npz was made with --decode fast; leave out --decode" in err
    code, _, err = command_line(*words, "--decode", "fsat")
    assert code == 2 and "decode 'fsat'" in err
    assert command_line(*words, "--into", "e", "--decode", "exact")[0] == 0
    exact = ImageIndex.load("e")
    assert exact.decode == "exact"
    key = str(photos / "fractal.jpg")
    clip = EdgeCLIP.load(shared_tiny_bundle.folder)
    encoded = clip.index([key]).compressed().vector(key)
    assert (exact.vector(key) == encoded).all() and (index.vector(key) != encoded).any()
    code, out, _ = command_line("search", "--image", key, "--json", "--top", "1")
    assert code == 0 and json.loads(out)["results"][0]["image"] == key


def test_a_photo_beyond_the_limit_is_indexed_shown_and_copied(
    command_line, photos, shared_tiny_bundle, monkeypatch
):
    monkeypatch.setattr(image_limits, "MAX_PIXELS", 1_000_000)
    Image.new("RGB", (4096, 3072), "purple").save(photos / "large.jpg")
    words = ("index", "photos", "--bundle", shared_tiny_bundle.folder, "--into")
    assert command_line(*words, "f", "--json")[0] == 0 and len(ImageIndex.load("f")) == 7
    _, out, _ = command_line(*words, "e", "--decode", "exact", "--json")
    assert "4096x3072 pixels; at most 1,000,000" in json.loads(out)["skipped"][0]["reason"]
    found = ("search", "a", "--in", "f", "--top", "7")
    assert command_line(*found, "--html", "a.html", "--copy-to", "copies")[0] == 0
    assert "pixels" not in Path("a.html").read_text()
    assert len(list(Path("copies").iterdir())) == 7
