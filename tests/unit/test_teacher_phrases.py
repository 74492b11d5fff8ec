"""What the starter teacher's texts are made of: WordNet's lines, and affinities to concepts."""

from __future__ import annotations

import math

import numpy as np
import pytest

DATA = (
    "  1 a line of the licence\n"
    '00001740 03 n 01 entity 0 000 | that which is perceived; "it exists"\n'
    "00002000 06 n 01 vessel 0 001 @ 00001740 n 0000 | a craft (of any size) for water\n"
    "00003000 06 n 02 sailing_boat 0 sailboat 0 001 @ 00002000 n 0000 | a small sailing vessel;"
    " usually with a single mast\n"
)
INDEX = (
    "  1 a line of the licence\n"
    "entity n 1 0 1 1 00001740  \n"
    "sailboat n 1 1 @ 1 0 00003000  \n"
    "vessel n 1 1 @ 1 1 00002000  \n"
)


@pytest.fixture
def wordnet(tmp_path):
    from starter.wordnet import WordNet

    for part in ("noun", "verb", "adj"):
        (tmp_path / f"data.{part}").write_text(DATA if part == "noun" else "")
        (tmp_path / f"index.{part}").write_text(INDEX if part == "noun" else "")
    return WordNet(tmp_path)


def test_wordnet_gives_names_short_glosses_and_what_is_more_general(wordnet):
    (sailboat,) = wordnet.meanings("sailboats")
    assert sailboat.names == ("sailing boat", "sailboat")
    assert sailboat.brief == "a small sailing vessel"
    above = wordnet.above(sailboat, 5)
    assert [each.names[0] for each in above] == ["vessel", "entity"]
    assert above[0].brief == "a craft for water"
    assert wordnet.common == {"n00001740", "n00002000"}  # met in tagged texts
    assert wordnet.meanings("unheard of") == []


@pytest.fixture
def bank(tmp_path):
    from tokenizers import Tokenizer

    from starter.meanings import PhraseBank
    from tinyclip_edge.starter import teacher_path

    angles = np.radians([0, 60, 10])
    meanings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    path = tmp_path / "bank.npz"
    np.savez(
        path, texts=np.array(["boat", "house", "sailing vessel"]), meanings=meanings,
        concepts=np.array(["boat", "house"]), concept_meanings=meanings[:2],
        own_rows=np.array([0, 1]), own_ends=np.array([0, 1, 2]),
        described_rows=np.array([2]), described_ends=np.array([0, 1, 1]),
    )  # fmt: skip
    return PhraseBank(path, Tokenizer.from_file(str(teacher_path() / "tokenizer.json")))


def test_captions_are_names_or_descriptions_of_their_concept(bank):
    rng = np.random.default_rng(0)
    drawn = np.array([bank.captions([0, 1], rng) for _ in range(200)])
    assert set(drawn[:, 0]) == {0, 2}
    assert set(drawn[:, 1]) == {1}
    assert 0.25 < (drawn[:, 0] == 2).mean() < 0.45  # about a third


def test_targets_are_softmaxes_of_the_encoders_cosines(bank):
    import torch

    from starter.meanings import TEMPERATURE, MeaningPrior

    prior = MeaningPrior(bank)
    cosines = [math.cos(math.radians(10)), math.cos(math.radians(50))]
    share = 1 / (1 + math.exp((cosines[1] - cosines[0]) / TEMPERATURE))
    assert prior.affinity(bank.meanings[2:])[0, 0].item() == pytest.approx(share, abs=1e-3)
    targets, back = prior.shared_targets(torch.tensor([0, 1]), bank.meanings[[2, 1]])
    first = 1 / (1 + math.exp((math.cos(math.radians(60)) - cosines[0]) / TEMPERATURE))
    assert targets[0, 0].item() == pytest.approx(0.5 + 0.5 * first, abs=1e-3)
    assert targets.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert back.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert back[1, 0] / back[1, 1] == pytest.approx(targets[0, 1] / targets[1, 1])


def test_a_text_belongs_where_the_encoder_says(bank):
    import torch

    from starter.meanings import SCALE, MeaningPrior

    prior = MeaningPrior(bank)
    places = torch.tensor([[1.0, 0.0], [0.0, 1.0]]) * SCALE
    half_way = torch.tensor([[0.5**0.5, 0.5**0.5]])
    assert prior.text_loss(places, half_way, bank.meanings[:1]).item() == pytest.approx(math.log(2))
    at_boat = prior.text_loss(places, torch.tensor([[1.0, 0.0]]), bank.meanings[:1])
    at_house = prior.text_loss(places, torch.tensor([[0.0, 1.0]]), bank.meanings[:1])
    assert at_boat.item() == pytest.approx(0, abs=1e-3)
    assert at_house.item() == pytest.approx(SCALE, abs=1e-3)


def test_a_concepts_place_is_the_mean_of_all_versions_of_its_pictures():
    import torch

    from starter.picture_embeddings import concept_places

    versions = torch.tensor(
        [[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0], [0.0, 1.0]]]
    )
    places = concept_places(versions, torch.tensor([1, 0, 0]), 2)
    assert places.tolist() == [[0.0, 1.0], pytest.approx([2 / 5**0.5, 1 / 5**0.5])]


def test_training_texts_leaves_pictures_where_they_are(bank):
    import argparse

    import torch

    from starter.evaluate_teacher import load_teacher
    from starter.train_text import TextRun
    from tinyclip_edge.starter import teacher_path

    class TwoPictures:
        pixels = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
        mono = torch.tensor([False, True])
        rows = np.array([0, 1])
        concepts = ("boat", "house")

        def pick(self, step):
            return [0, 1]

    arguments = argparse.Namespace(init=teacher_path(), seed=0, steps=10, lr=1e-3)
    run = TextRun(arguments, TwoPictures(), bank)
    assert all(math.isfinite(loss) for _ in range(2) for loss in run.train_step())
    before = load_teacher(teacher_path()).state_dict()
    changed = {
        name.split(".")[0] for name, value in run.ema.state_dict().items()
        if not torch.equal(value, before[name])
    }  # fmt: skip
    assert "visual" not in changed
    assert {"token_embedding", "transformer", "text_projection"} <= changed


def test_composed_phrases_have_names_of_pictures_and_words_of_wordnet(tmp_path, monkeypatch):
    import random

    from starter import phrases
    from starter.wordnet import WordNet

    for part in ("noun", "verb", "adj"):
        (tmp_path / f"data.{part}").write_text(DATA)
        (tmp_path / f"index.{part}").write_text(INDEX)
    wordnet = WordNet(tmp_path)
    monkeypatch.setattr(phrases, "COMPOSED", 200)
    monkeypatch.setattr(phrases, "COMPOSITIONS", ("{n} on a {m}",))
    texts = set(phrases._composed(wordnet, ["anchor"], random.Random(0)))
    words = {word for text in texts for word in text.split(" on a ")}
    assert words == {"anchor", "entity", "vessel"}
