"""Decoded pairs: pixels, distinct and repeatable batches, images that do not decode."""

import struct
import zlib

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pair_shards import draw, encoded, toy_samples, write_shard
from tinyclip_edge.data import (
    BadSamples,
    PairMemory,
    PixelCodec,
    decode_image,
    open_source,
)
from tinyclip_edge.data.pairs import UndecodableImageError
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.preprocess import Preprocess

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def codec(size=32, **options):
    config = PreprocessCfg(size=size, mean=MEAN, std=STD, **options)
    return PixelCodec(image_transform_v2(config, is_train=False), MEAN, STD)


def load(path, **options):
    return PairMemory.load(open_source(str(path)), codec(), **options)


@pytest.fixture
def memory(tmp_path):
    return load(write_shard(tmp_path / "a.tar", toy_samples((32, 48))))


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("is_standard", [True, False])
def test_stored_pixels_give_back_the_preprocessing_bit_for_bit(mode, is_standard):
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    transform = image_transform_v2(
        PreprocessCfg(size=32, mean=MEAN, std=STD, resize_mode=mode), is_train=False
    )
    pixels = PixelCodec(transform if is_standard else transform.__call__, MEAN, STD)
    stored = pixels.store(image)
    assert stored.dtype == torch.uint8
    assert torch.equal(pixels.restore(stored[None])[0], transform(image))


def test_restoring_to_another_size_is_a_resize():
    flat = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    small = codec().restore(flat, 16)
    assert small.shape == (1, 3, 16, 16)
    expected = (128 / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(small[0, :, 5, 5], expected, atol=1e-5)


def test_pictures_and_captions_belong_together(memory):
    batch = memory.batch(3, 16, seed=1)
    for key, caption, pixels in zip(batch.keys, batch.captions, batch.pixels, strict=True):
        size, colour, shape, style = key.split("-")
        assert colour in caption
        assert shape in caption
        expected = codec().store(draw(colour, shape, size, int(style)))
        assert torch.equal(pixels, expected)


def test_a_batch_holds_no_concept_twice_and_an_epoch_every_picture_once(memory):
    observed = []
    for step in range(6):  # 96 pictures of 48 concepts, 16 a batch
        keys = memory.batch(step, 16, seed=0).keys
        assert len({key.rsplit("-", 1)[0] for key in keys}) == 16
        observed += keys
    assert len(set(observed)) == 96


def test_all_pictures_and_captions_occur_in_time(memory):
    batches = [memory.batch(step, 16, seed=0) for step in range(60)]
    assert len({key for batch in batches for key in batch.keys}) == 96
    assert {c for batch in batches for c in batch.captions} == set(memory.captions)


def test_a_batch_depends_on_seed_and_step_alone(memory, tmp_path):
    again = load(write_shard(tmp_path / "b.tar.gz", toy_samples((32, 48))))
    for _ in range(2):
        late, other = memory.batch(40, 16, seed=3), again.batch(40, 16, seed=3)
        assert late.keys == other.keys
        assert late.captions == other.captions
        assert torch.equal(late.pixels, other.pixels)
    assert memory.batch(40, 16, seed=4).keys != late.keys
    assert memory.batch(41, 16, seed=3).keys != late.keys
    stream = memory.batches(39, 16, seed=3)
    next(stream)
    assert next(stream).keys == late.keys


def test_without_distinct_concepts_every_picture_is_visited_once_an_epoch(memory):
    keys = [k for step in range(4) for k in memory.batch(step, 24, seed=0, distinct=False).keys]
    assert len(set(keys)) == 96


def test_a_batch_that_cannot_be_filled_is_refused(memory):
    with pytest.raises(DataError, match=r"batch_size 64 exceeds the 48 distinct concepts.*"
                       r"lower it or set data\.batch_distinct=false"):  # fmt: skip
        next(memory.batches(0, 64, seed=0))
    with pytest.raises(DataError, match="exceeds the 96 pairs"):
        memory.check_batch(97, distinct=False)


def test_the_fingerprint_sees_keys_captions_and_order(tmp_path, memory):
    samples = toy_samples((32, 48))
    turned = load(write_shard(tmp_path / "t.tar", samples[::-1]))
    fewer = load(write_shard(tmp_path / "f.tar", samples), limit=10)
    assert len(fewer) == 10
    assert len({memory.fingerprint, turned.fingerprint, fewer.fingerprint}) == 3


def test_labels_are_the_first_captions(memory):
    assert [memory.label(i) for i in range(48)] == list(memory.concepts)


def test_few_undecodable_images_are_skipped_and_reported(tmp_path):
    samples = toy_samples((32, 40, 48))  # 144
    samples[7][1]["png"] = b"not an image"
    memory = load(write_shard(tmp_path / "a.tar", samples))
    assert len(memory) == 143
    assert memory.bad.keys == [samples[7][0]]
    (line,) = memory.skipped()
    assert line.endswith(f"skipped 1 of 144 images that cannot be decoded: {samples[7][0]}")


def test_more_than_one_per_cent_of_undecodable_images_stop_with_the_list(tmp_path):
    samples = toy_samples()
    cut = samples[3][1]["png"]
    samples[3][1]["png"] = cut[: len(cut) // 2]
    with pytest.raises(DataError, match="1 of 48 images cannot be decoded") as caught:
        load(write_shard(tmp_path / "a.tar", samples))
    assert samples[3][0] in str(caught.value)


def test_a_stream_is_judged_once_enough_was_read():
    bad = BadSamples("x")
    for number in range(11):
        bad.add(str(number))
    bad.check(999, final=False)
    with pytest.raises(DataError):
        bad.check(1000, final=False)
    bad.check(1100, final=True)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb(mode):
    assert decode_image(draw("red", "bar", "big").convert(mode)).mode == "RGB"


def test_a_picture_of_absurd_size_does_not_decode(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UndecodableImageError):
        decode_image(toy_samples()[0][1]["png"])


def with_chunk(png, kind, data):
    """A PNG file with one more chunk, correct CRC, behind its header."""
    body = kind + data
    return png[:33] + struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body)) \
        + png[33:]  # fmt: skip


def test_a_broken_chunk_is_one_undecodable_image(tmp_path):
    samples = toy_samples((32, 36, 40))
    broken = with_chunk(samples[5][1]["png"], b"gAMA", b"\0")  # four bytes are due
    samples[5][1]["png"] = broken
    with pytest.raises(UndecodableImageError):
        decode_image(broken)
    assert codec().decode(broken) is None
    assert load(write_shard(tmp_path / "a.tar", samples)).bad.keys == [samples[5][0]]


def test_a_mode_that_cannot_be_resized_is_undecodable(monkeypatch):
    def refuse(_):
        raise ValueError("image has wrong mode")

    pixels = PixelCodec(refuse, MEAN, STD)
    assert pixels.decode(encoded(draw("red", "bar", "big"))) is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
def test_training_sees_the_pixels_that_the_runtime_sees(mode, resize):
    noise = np.random.default_rng(1).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    picture = Image.fromarray(noise)
    opaque = picture.convert("RGB")
    file = encoded(opaque.quantize(32) if mode == "P" else picture.convert(mode))
    config = {"size": 32, "mean": MEAN, "std": STD, "resize_mode": resize}
    expected = Preprocess.from_config(config).pixels(file).transpose(2, 0, 1)
    assert np.array_equal(codec(resize_mode=resize).decode(file).numpy(), expected)


def test_keys_that_a_stream_meets_again_are_named_once():
    bad = BadSamples("x")
    for key in ("a", "b", "a"):
        bad.add(key)
    assert bad.report(600) == ["x: skipped 3 of 600 images that cannot be decoded: a, b"]


@pytest.mark.parametrize("distinct", [True, False])
def test_shares_of_a_batch_join_to_it(memory, distinct):
    for step in (0, 5, 13):
        full = memory.batch(step, 12, seed=3, distinct=distinct)
        parts = [
            memory.batch(step, 12, seed=3, distinct=distinct, rows=slice(at, at + 4))
            for at in (0, 4, 8)
        ]
        assert sum((part.keys for part in parts), ()) == full.keys
        assert sum((part.captions for part in parts), ()) == full.captions
        assert torch.equal(torch.cat([part.pixels for part in parts]), full.pixels)
        assert all(np.array_equal(part.image_ids, full.image_ids) for part in parts)
        assert all(np.array_equal(part.caption_ids, full.caption_ids) for part in parts)
