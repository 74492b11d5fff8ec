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
