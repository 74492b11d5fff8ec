"""Several sources in one batch: shares, rows of processes, numbers in one table."""

import pytest
from toy_codec import toy_codec

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import DataConfig
from tinyclip_edge.config.sources import TextsConfig
from tinyclip_edge.data import MixedPairs, PairMemory, StreamingPairs, open_sources
from tinyclip_edge.errors import ConfigError, DataError

TEXTS = [f"text {number}" for number in range(20)]


CODEC = toy_codec()


@pytest.fixture
def mixture(tmp_path):
    """A mixture of pairs and unpaired pictures, the latter's keys beginning with u."""
    samples = toy_samples()
    for number in range(4):
        part = samples[number * 12 : number * 12 + 12]
        write_shard(tmp_path / f"pairs-{number}.tar", part)
        write_shard(tmp_path / f"images-{number}.tar", [(f"u-{key}", files) for key, files in part])

    def make(weights, *, streamed=False, **options):
        texts = TextsConfig(labels=TEXTS, templates=["{}"])
        config = DataConfig(
            mix=[
                {"pairs": str(tmp_path / "pairs-*.tar")},
                {"images": str(tmp_path / "images-*.tar"), "texts": texts},
            ]
        )
        sources = open_sources(config)
        if streamed:
            return MixedPairs([StreamingPairs(s, CODEC, **options) for s in sources], weights)
        return MixedPairs([PairMemory.load(s, CODEC) for s in sources], weights)

    return make


def taken(mixed, steps, *, start=0, size=16, rows=slice(None), position=None):
    batches = mixed.batches(start, size, seed=3, rows=rows, position=position)
    return [next(batches) for _ in range(steps)]


@pytest.mark.parametrize(
    ("weights", "size", "shares"),
    [((3.0, 1.0), 16, [12, 4]), ((1.0, 1.0), 7, [4, 3]), ((2.0, 1.0), 16, [11, 5])],
)
def test_each_source_has_its_share_of_every_batch(mixture, weights, size, shares):
    mixed = mixture(weights)
    assert mixed.shares(size) == shares
    for batch in taken(mixed, 3, size=size):
        unpaired = [key.startswith("u-") for key in batch.keys]
        assert unpaired.count(True) == shares[1]
        for key, caption in zip(batch.keys, batch.captions, strict=True):
            if key.startswith("u-"):
                assert caption in TEXTS
            else:
                size_of, colour, shape, _ = key.split("-")
                assert all(word in caption for word in (size_of, colour, shape))


def test_rows_of_a_source_are_spread_over_the_batch(mixture):
    (batch,) = taken(mixture((3.0, 1.0)), 1)
    places = [at for at, key in enumerate(batch.keys) if key.startswith("u-")]
    assert [at // 4 for at in places] == [0, 1, 2, 3]


def test_numbers_are_those_of_one_table_of_all_sources(mixture):
    mixed = mixture((1.0, 1.0))
    keys = [key for each in mixed.memories for key in each.keys]
    for batch in taken(mixed, 3):
        assert [keys[at] for at in batch.image_ids] == list(batch.keys)
        assert [mixed.captions[at] for at in batch.caption_ids] == list(batch.captions)


@pytest.mark.parametrize("streamed", [False, True])
def test_processes_have_the_rows_of_one_batch(mixture, streamed):
    options = {"streamed": True, "stream_groups": 2, "buffer": 4} if streamed else {}
    whole = taken(mixture((3.0, 1.0), **options), 4)
    halves = [
        taken(mixture((3.0, 1.0), **options), 4, rows=rows) for rows in (slice(0, 8), slice(8, 16))
    ]
    for step, batch in enumerate(whole):
        assert batch.keys == halves[0][step].keys + halves[1][step].keys
        assert batch.captions == halves[0][step].captions + halves[1][step].captions


def test_a_stream_goes_on_from_its_position(mixture):
    mixed = mixture((3.0, 1.0), streamed=True, stream_groups=2, buffer=4)
    batches = mixed.batches(0, 16, seed=3)
    for _ in range(5):
        next(batches)
    place = mixed.position.plain()
    assert sorted(place) == [0, 1, 2, 3]  # two groups of two sources
    expected = [(batch.keys, batch.captions) for batch in (next(batches), next(batches))]
    again = mixture((3.0, 1.0), streamed=True, stream_groups=2, buffer=4)
    resumed = taken(again, 2, start=5, position=place)
    assert [(batch.keys, batch.captions) for batch in resumed] == expected


def test_sources_of_equal_pictures_are_not_drawn_alike(mixture):
    mixed = mixture((1.0, 1.0))
    first = [set(batch.keys) for batch in taken(mixed, 3)]
    assert any(
        {key for key in keys if not key.startswith("u-")}
        != {key.removeprefix("u-") for key in keys if key.startswith("u-")}
        for keys in first
    )


def test_what_cannot_be_mixed_is_refused(mixture):
    with pytest.raises(ConfigError, match=r"data.mix\[2\] gets no row in a batch of 16"):
        mixture((100.0, 1.0)).check_batch(16, distinct=True)
    with pytest.raises(DataError, match=r"data.mix\[1\] \(its share of a batch\): .* 60 exceeds"):
        mixture((3.0, 1.0)).check_batch(80, distinct=True)
    with pytest.raises(ConfigError, match="fewer than there are processes"):
        taken(mixture((15.0, 1.0)), 1, rows=slice(0, 4))
