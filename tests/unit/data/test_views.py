"""Views: crops as torchvision draws them, the same ones whenever they are asked for."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from pair_shards import draw, encoded, toy_samples, write_shard
from tinyclip_edge.data import Crops, PairMemory, PixelCodec, StreamingPairs, open_source
from tinyclip_edge.data.views import RATIO, crop_box, view_seed
from tinyclip_edge.errors import DataError

SIZES = [(640, 480), (48, 300), (301, 40), (7, 5), (1, 1)]
CODEC = PixelCodec(lambda image: torch.zeros(3, 16, 16), (0, 0, 0), (1, 1, 1))


def noise(width, height):
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0)])
def test_a_crop_is_that_of_torchvision_under_the_same_generator(size, scale):
    image = Image.new("RGB", size)
    for seed in range(40):
        torch.manual_seed(seed)
        top, x, high, wide = RandomResizedCrop.get_params(image, list(scale), list(RATIO))
        assert crop_box(*size, scale, seed) == (x, top, x + wide, top + high)


def test_the_pixels_are_those_of_torchvision():
    image, crops = noise(90, 70), Crops(3, (0.5, 1.0), (24, 32))
    theirs = RandomResizedCrop((24, 32), (0.5, 1.0), interpolation=InterpolationMode.BICUBIC)
    seeds = crops.seeds("a key")
    result = crops.decode(encoded(image), *seeds)
    assert result.shape == (3, 3, 24, 32)
    for seed, pixels in zip(seeds, result, strict=True):
        torch.manual_seed(seed)
        assert np.array_equal(pixels.numpy().transpose(1, 2, 0), np.asarray(theirs(image)))


def test_seeds_follow_from_key_and_number_alone():
    seeds = {view_seed(key, view) for key in ("a", "b", "1 a", "\udcff") for view in range(8)}
    assert len(seeds) == 32
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert view_seed("a", 3) == view_seed("a", 3)


def test_what_does_not_decode_has_no_view():
    assert Crops(2, (0.9, 1.0), (8, 8)).decode(b"nothing", 1, 2) is None
    assert Crops(2, (0.9, 1.0), (8, 8)).decode_one(b"nothing", 1) is None


def test_views_of_a_step_are_the_same_for_all():
    crops = Crops(4, (0.9, 1.0), (8, 8))
    views = [crops.draw_views(1, step, 64) for step in range(50)]
    assert views[7] == crops.draw_views(1, 7, 64) != crops.draw_views(2, 7, 64)
    assert views[7] != views[8]
    counts = np.bincount(np.ravel(views), minlength=4)  # 3200 draws, standard deviation 24.5
    assert abs(counts - 800).max() < 5 * 24.5


@pytest.fixture
def source(tmp_path):
    return open_source(str(write_shard(tmp_path / "a.tar", toy_samples((48,)))))


def expected(key, view, crops):
    size, colour, shape, _ = key.split("-")
    return crops.decode(draw(colour, shape, size, 48), view_seed(key, view))[0]


def test_memory_shows_one_view_of_each_picture_an_epoch(source):
    crops = Crops(3, (0.3, 1.0), (16, 16))
    memory = PairMemory.load(source, CODEC, crops=crops)
    assert memory.images == [] and memory.viewed.nbytes > 0
    stream = memory.batches(0, 16, seed=0)
    for step in range(11):  # 48 pictures: 3 steps an epoch, views in turn
        batch, again = next(stream), memory.batch(step, 16, seed=0)
        view = step // 3 % 3
        assert batch.keys == again.keys
        assert torch.equal(batch.pixels, again.pixels)
        pictures = [memory.keys.index(key) for key in batch.keys]
        assert batch.image_ids.tolist() == [3 * picture + view for picture in pictures]
        for key, pixels in zip(batch.keys, batch.pixels, strict=True):
            assert torch.equal(pixels, expected(key, view, crops))


def test_a_stream_shows_the_views_of_its_step(source):
    crops = Crops(3, (0.3, 1.0), (16, 16))
    all_batches = StreamingPairs(source, CODEC, crops=crops).batches(0, 16, seed=5)
    late = StreamingPairs(source, CODEC, crops=crops).batches(2, 16, seed=5, rows=slice(8, 16))
    for step in range(4):
        batch = next(all_batches)
        views = crops.draw_views(5, step, 16)
        for key, view, pixels in zip(batch.keys, views, batch.pixels, strict=True):
            assert torch.equal(pixels, expected(key, view, crops))
        if step >= 2:
            assert torch.equal(next(late).pixels, batch.pixels[8:])


def test_a_picture_that_goes_away_is_named(tmp_path):
    for key, files in toy_samples():
        (tmp_path / f"{key}.png").write_bytes(files["png"])
        (tmp_path / f"{key}.txt").write_bytes(files["txt"])
    crops = Crops(2, (0.9, 1.0), (16, 16))
    memory = PairMemory.load(open_source(str(tmp_path)), CODEC, crops=crops)
    assert memory.viewed.nbytes == 0  # read from their files each time
    key = memory.batch(0, 8, seed=0).keys[2]
    (tmp_path / key).write_bytes(b"nothing")
    with pytest.raises(DataError, match=f"image '{key}' can no longer be decoded"):
        memory.batch(0, 8, seed=0)


@pytest.mark.parametrize(("limit", "holds"), [(0, False), (1, False), (10**9, True)])
def test_encoded_pictures_stay_in_memory_up_to_a_number_of_bytes(source, limit, holds):
    assert source.holds(limit) is holds
