"""``decode="fast"``: how far its pixels are from the exact ones, and which files it opens."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP, ImageIndex
from tinyclip_edge.errors import BundleError, ConfigError, DataError
from tinyclip_edge.runtime import image_limits
from tinyclip_edge.runtime.images import image_header, open_image
from tinyclip_edge.runtime.preprocess import Preprocess

PEAK = """
import sys
from pathlib import Path
from tinyclip_edge.runtime.decoding import prepared
from tinyclip_edge.runtime.preprocess import Preprocess
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
path, before = sys.argv[1], peak()
jobs = prepared([path] * 6, Preprocess(64, 64, decode="fast"), threads=2, ahead=3)
assert all(pixels.shape == (3, 64, 64) for _, pixels in jobs)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def photo():
    """A picture with detail of every size: clouds, edges, thin lines and grain."""
    rng = np.random.default_rng(3)
    pixels = np.zeros((1200, 1600, 3))
    for size in (4, 16, 64, 256):
        noise = rng.integers(0, 256, (3 * size, 4 * size, 3), dtype=np.uint8)
        pixels += np.asarray(Image.fromarray(noise).resize((1600, 1200), Image.BICUBIC)) / 4
    pixels[100:500, 200:700] = (250, 20, 20)
    pixels[600:700, ::7] = 0
    pixels += rng.normal(0, 8, pixels.shape[:2])[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pair(content, size, **options):
    """The pixels of both modes as int."""
    exact = Preprocess(size, size, **options).pixels(content).astype(int)
    return exact, Preprocess(size, size, decode="fast", **options).pixels(content).astype(int)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("size", "most", "mean"), [(224, 16, 1.0), (64, 8, 1.5)])
def test_pixels_are_within_some_levels(photo, size, most, mean, mode):
    exact, fast = pair(encoded(photo, "JPEG", quality=90), size, resize_mode=mode)
    difference = np.abs(exact - fast)
    assert 0 < difference.max() <= most and difference.mean() <= mean


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_other_formats_are_averaged(photo, image_format):
    exact, fast = pair(encoded(photo, image_format), 64)
    difference = np.abs(exact - fast)
    assert 0 < difference.max() <= 8 and difference.mean() <= 1.4


def test_a_jpeg_is_decoded_at_twice_the_size_or_more(photo):
    content = encoded(photo, "JPEG", quality=90)
    twice = (((300, 200), (400, 300)), ((400, 301), (800, 600)), ((9, 9), (200, 150)))
    for least, expected in twice:
        assert open_image(content, least=lambda width, height, size=least: size).size == expected


def test_a_turned_photo_is_measured_upright(photo):
    narrow = photo.crop((0, 0, 1600, 400))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(narrow, "JPEG", quality=90, exif=exif.tobytes())
    sizes = []

    def least(width, height):
        sizes.append((width, height))
        return 50, 200

    assert open_image(turned, least=least).size == (50, 200) and sizes == [(400, 1600)]
    exact, fast = pair(turned, 32)
    assert np.abs(exact - fast).max() <= 8
    exact, fast = pair(turned, 32, as_stored=True)
    assert np.abs(exact - fast).max() <= 8


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "GIF", "TIFF"])
def test_small_pictures_are_the_same(photo, picture_format):
    exact, fast = pair(encoded(photo.resize((400, 300)), picture_format), 224)
    np.testing.assert_array_equal(exact, fast)


def test_108_megapixels_in_bounded_memory(tmp_path):
    path = tmp_path / "phone.jpg"
    Image.new("L", (12_000, 9_000), 77).save(path)
    with pytest.raises(DataError, match="12000x9000 pixels; at most 89,478,485"):
        Preprocess(64, 64).pixels(path)
    assert (Preprocess(64, 64, decode="fast").pixels(path) == 77).all()
    # 108 MB a picture, were it decoded as it is.
    grown = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    )
    assert float(grown.stdout) < 60


def test_larger_files_are_refused(photo, monkeypatch):
    monkeypatch.setattr(image_limits, "MAX_PIXELS", 500_000)
    fast = Preprocess(64, 64, decode="fast")
    plain, progressive = (
        encoded(photo, "JPEG", progressive=progressive) for progressive in (False, True)
    )
    assert fast.pixels(plain).shape == (64, 64, 3)
    assert image_header(plain, reduced=True)[1:] == (1600, 1200)
    with pytest.raises(DataError, match=r"1600x1200 pixels in several scans .*500,000"):
        fast.pixels(progressive)
    with pytest.raises(DataError, match="at most 500,000"):
        fast.pixels(encoded(photo, "PNG"))
    with pytest.raises(DataError, match="at most 500,000"):
        image_header(plain)
    monkeypatch.setattr(image_limits, "MAX_JPEG_PIXELS", 1_000_000)
    with pytest.raises(DataError, match="JPEGs are opened up to 1,000,000"):
        fast.pixels(plain)


def test_structures_that_may_hide_a_second_scan_are_refused(photo, monkeypatch):
    monkeypatch.setattr(image_limits, "MAX_PIXELS", 500_000)
    content = encoded(photo, "JPEG")
    fast, scan = Preprocess(64, 64, decode="fast"), content.index(b"\xff\xda")
    assert fast.pixels(content[:2] + b"\xff" + content[2:]).shape == (64, 64, 3)  # a fill byte
    one_colour = content[:scan] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + content[scan + 14 :]
    for wrong in (
        one_colour,
        content[:scan] + b"\0" + content[scan:],
        content[:scan] + b"\xff\xd0" + content[scan:],
        content[:scan] + b"\xff\xfe\x00\x01" + content[scan:],
    ):
        with pytest.raises(DataError, match=r"several scans|cannot be decoded"):
            fast.pixels(wrong)


def test_an_image_of_the_caller_is_not_shrunk(photo):
    image = Image.open(io.BytesIO(encoded(photo, "JPEG")))
    Preprocess(64, 64, decode="fast").pixels(image)
    assert image.size == (1600, 1200)


def test_unknown_modes_are_named(shared_tiny_bundle):
    with pytest.raises(ConfigError, match=r"decode 'fsat'.*fast"):
        EdgeCLIP.load(shared_tiny_bundle.folder, decode="fsat")


@pytest.fixture
def both(shared_tiny_bundle):
    exact = EdgeCLIP.load(shared_tiny_bundle.folder)
    return exact, exact.decoding("fast")


def test_an_index_names_its_mode_and_never_mixes(both, photo, tmp_path):
    exact, fast = both
    path = tmp_path / "photo.jpg"
    photo.save(path, quality=90)
    assert exact.decoding("exact") is exact and (exact.decode, fast.decode) == ("exact", "fast")
    index = fast.index([path])
    assert index.decode == "fast" and "decoded fast" in repr(index)
    np.testing.assert_array_equal(index.features, fast.encode_image([path]))
    assert not np.array_equal(index.features, exact.encode_image([path]))
    for mmap in (False, True):
        assert ImageIndex.load(index.save(tmp_path / "a"), mmap=mmap).decode == "fast"
    more = index.add(exact, [path], ["again"])
    np.testing.assert_array_equal(more.features[0], more.features[1])
    assert exact.search(path, more, 1)[0].score == pytest.approx(1, abs=1e-6)
    with pytest.raises(BundleError, match="decoded exact, not fast"):
        index.merge(exact.index([path], ["other"]))


def test_a_copy_of_the_model_decodes_alike(both):
    import pickle

    assert pickle.loads(pickle.dumps(both[1])).decode == "fast"


def test_a_mode_of_a_later_version_is_refused(both, photo, tmp_path, monkeypatch):
    from dataclasses import replace

    index = replace(both[0].index([photo]), decode="new")
    with pytest.raises(DataError, match="decode mode 'new' is unknown; upgrade"):
        ImageIndex.load(index.save(tmp_path / "a"))
