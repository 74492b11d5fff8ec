"""Pairs that differ: divergence and ranks by hand, and a shard that training reads."""

import math

import numpy as np
import pytest
from angle_model import BLUE, GREEN, RED, AngleModel, last, square

from tinyclip_demo.disagree import BY_DIVERGENCE, BY_RANK_GAP, FIRST_RIGHT, divergence
from tinyclip_demo.gallery import folder_gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_demo.shard import write_shard
from tinyclip_edge.errors import ConfigError, DataError


def mined_of(service, gallery, numbers=(0, 1)):
    for _ in service.searcher.indexing(gallery, numbers):
        pass
    return last(service.miner.mine(gallery, numbers))


def test_divergence_in_bits():
    opposite = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert divergence(opposite) == pytest.approx([1.0])
    assert divergence(np.stack([opposite[0]] * 3)) == pytest.approx([0.0])
    # three models, each sure of another label: log2 3
    assert divergence(np.eye(3)[:, None, :]) == pytest.approx([math.log2(3)])
    # halves against a sure answer: H(3/4, 1/4) - 1/2
    mixed = np.array([[[0.5, 0.5]], [[1.0, 0.0]]])
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5
    assert divergence(mixed) == pytest.approx([expected])


def test_ranks_and_answers_by_hand(service, gallery):
    mined = mined_of(service, gallery)
    # first: red at 0, green at 30, blue at 100; words red 0, green 60, blue 180:
    # red -> red; green is 30 from both words, a tie that goes to the first; blue -> green (40)
    # other: red at 50 -> green; green at 10 -> red; blue -> green
    assert [mined.classes[at] for at in mined.predicted[1]] == ["green", "red", "green"]
    assert mined.classes[mined.predicted[0, 0]] == "red"
    assert mined.caption_rank[:, 0].tolist() == [1, 2]
    # blue: green 40, blue 80, red 100 degrees away
    assert mined.caption_rank[:, 2].tolist() == [2, 2]
    (top,) = mined.top(BY_DIVERGENCE, 1)
    # red against green is the sharpest difference: 0 against 60, and 50 against 10 degrees
    assert (top.caption, top.rank_gap) == ("red", 1)
    assert [answer.label for answer in top.predictions] == ["red", "green"]
    first = 1 / (1 + math.exp(-5) + math.exp(-20))
    assert top.predictions[0].probability == pytest.approx(first, abs=1e-6)


def test_orders(service, gallery):
    mined = mined_of(service, gallery)
    apart = [pair.divergence for pair in mined.top(BY_DIVERGENCE, 3)]
    assert apart == sorted(apart, reverse=True)
    gaps = [pair.rank_gap for pair in mined.top(BY_RANK_GAP, 3)]
    assert gaps == sorted(gaps, reverse=True)
    mistakes = mined.top(FIRST_RIGHT, 3)
    assert mistakes and all(pair.predictions[0].caption_rank == 1 for pair in mistakes)
    assert all(max(answer.caption_rank for answer in pair.predictions) > 1 for pair in mistakes)


def test_models_that_agree_have_nothing_between_them(gallery, models):
    same = [models[0], AngleModel("twin", models[0].colours, models[0].words)]
    mined = mined_of(DemoService(ModelRegistry(same), gallery), gallery)
    assert mined.differing == 0
    assert mined.divergence == pytest.approx(np.zeros(3), abs=1e-6)
    assert mined.top(FIRST_RIGHT, 5) == []


def test_mining_twice_encodes_once(service, gallery, models):
    mined_of(service, gallery)
    calls = [list(model.text_calls) for model in models]
    assert mined_of(service, gallery) is mined_of(service, gallery)
    assert [model.text_calls for model in models] == calls


def test_one_model_or_one_name_cannot_disagree(service, gallery, tmp_path):
    with pytest.raises(ConfigError, match="at least two"):
        mined_of(service, gallery, (0,))
    square(RED).save(tmp_path / "red.png")
    with pytest.raises(DataError, match="two names"):
        mined_of(service, folder_gallery(tmp_path))


def test_the_shard_is_data_for_training(service, tmp_path):
    from tinyclip_edge.data import open_source

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    square(RED).save(pictures / "red.png")
    square(GREEN).save(pictures / "green.webp", lossless=True)
    square(BLUE).save(pictures / "blue.bmp")
    gallery = folder_gallery(pictures)
    mined = mined_of(service, gallery)
    top = mined.top(BY_DIVERGENCE, 3)
    path = write_shard(tmp_path / "slice.tar", gallery, top, mined.names)
    pairs = {pair.captions[0]: pair for pair in open_source(str(path))}
    assert set(pairs) == {"red", "green", "blue"}
    assert pairs["red"].image == (pictures / "red.png").read_bytes()
    assert pairs["green"].image == (pictures / "green.webp").read_bytes()
    # a format that training does not read becomes PNG
    assert pairs["blue"].image.startswith(b"\x89PNG")
    assert pairs["red"].meta["answers"]["other"]["label"] == "green"
    with pytest.raises(DataError, match="find the disagreements first"):
        write_shard(tmp_path / "none.tar", gallery, [], mined.names)
