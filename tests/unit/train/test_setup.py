"""What fits into memory, and what is told of images that do not decode."""

from types import SimpleNamespace

import pytest

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig, load_config
from tinyclip_edge.data import PairMemory, StreamingPairs, open_source
from tinyclip_edge.train.setup import fits, picture_bytes, prepare


class Messages(list):
    def on_message(self, text):
        self.append(text)


@pytest.fixture
def config(tmp_path, toy_teacher_folder):
    def make(samples, **data):
        train = write_shard(tmp_path / "train.tar", toy_samples())
        val = write_shard(tmp_path / "val.tar", samples)
        return RunConfig.model_validate(
            {
                "teacher": {"model": str(toy_teacher_folder)},
                "student": {"model": {"vision_cfg": {"width": 64, "layers": 2},
                                      "text_cfg": {"width": 64, "heads": 1, "layers": 2}}},
                "data": {"train": str(train), "val": str(val), **data},
                "optim": {"steps": 2, "batch_size": 8},
                "run": {"device": "cpu"},
            }
        )  # fmt: skip

    return make


@pytest.mark.parametrize(("size", "expected"), [(224, 150_528), ((64, 32), 6_144)])
def test_a_decoded_picture_takes_three_bytes_a_pixel(size, expected):
    assert picture_bytes(SimpleNamespace(config={"preprocess_cfg": {"size": size}})) == expected


def test_a_source_fits_by_its_number_of_pairs(tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"s-{number}.tar", toy_samples())
    source = open_source(str(tmp_path / "s-*.tar"))
    assert fits(source, 96)
    assert not fits(source, 95)
    assert not fits(source, 0)


# 48 pictures of 32 x 32 are 48 * 3 * 1024 = 147,456 bytes.
@pytest.mark.parametrize(
    ("memory_gb", "kind"),
    [(147_456e-9, PairMemory), (147_455e-9, StreamingPairs), (0, StreamingPairs)],
)
def test_the_bound_is_bytes_of_decoded_pictures(config, memory_gb, kind):
    told = Messages()
    setup = prepare(config(toy_samples(), memory_gb=memory_gb), told)
    assert isinstance(setup.pairs, kind)
    assert any("is streamed" in line for line in told) == (kind is StreamingPairs)


def test_the_shipped_runs_bound_memory_in_gigabytes():
    assert load_config("starter").data.memory_gb == 4.0


def test_skipped_validation_images_are_told(config):
    samples = toy_samples((32, 36, 40))
    samples[7][1]["png"] = b"nothing"
    told = Messages()
    prepare(config(samples), told)
    line = f"skipped 1 of 144 images that cannot be decoded: {samples[7][0]}"
    assert any(message.endswith(line) for message in told)
