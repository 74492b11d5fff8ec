"""The word prior that the starter teacher's training may use, on a table of four words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from starter.word_vectors import FILE, SCALE, WordPrior, WordVectors
from tinyclip_edge.starter import teacher_path

TABLE = {"cat": [3.0, 0.0, 9.0], "dog": [0.0, 2.0, 9.0], "kitten": [2.0, 0.2, 9.0], "x1": [1, 1, 9]}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> WordVectors:
    folder: Path = tmp_path_factory.mktemp("words")
    # The package's rows are longer than the vectors: norms and word numbers follow.
    table = {"dimensions": 2, "words": ["the", *TABLE], "vectors": TABLE}
    (folder / FILE).write_text(json.dumps(table))
    return WordVectors(folder)


@pytest.fixture(scope="module")
def prior(vectors: WordVectors) -> WordPrior:
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(teacher_path() / "tokenizer.json"))
    return WordPrior(vectors, ["cat", "the dog", "zebra"], tokenizer)


def test_only_plain_words_with_a_vector_remain(vectors: WordVectors) -> None:
    assert vectors.words == ["cat", "dog", "kitten"]


def test_a_name_is_the_unit_mean_of_its_words(vectors: WordVectors) -> None:
    vectors_of_names = vectors.of_names(["cat", "Cat and dog", "zebra", "cat zebra"]).numpy()
    half = math.sqrt(0.5)
    expected = [[1, 0], [half, half], [0, 0], [1, 0]]
    np.testing.assert_allclose(vectors_of_names, expected, atol=1e-6)


def test_near_takes_words_by_their_cosine(vectors: WordVectors) -> None:
    # kitten stands at cosine 2 / sqrt(4.04) = 0.995 to cat and 0.0995 to dog.
    assert vectors.near(torch.tensor([[1.0, 0.0]])) == ["cat", "kitten"]


def test_a_name_without_vocabulary_words_adds_no_loss(prior: WordPrior) -> None:
    places = prior(prior.names).detach()
    embeddings = places.clone()
    rows = torch.tensor([0, 1, 2])
    logits = SCALE * (places[:2] @ places.T)
    expected = torch.logsumexp(logits, dim=1) - logits.diagonal()
    loss = prior.name_loss(embeddings, embeddings, rows)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-4)


def test_practice_teaches_the_text_tower_and_not_the_map(prior: WordPrior) -> None:
    ids, meaning = prior.words(step=3, count=6)
    assert ids.shape[0] == 6
    assert meaning.shape == (6, 2)
    texts = torch.nn.functional.normalize(torch.randn(6, 256), dim=-1).requires_grad_()
    prior.zero_grad()
    prior.practice(texts, meaning).backward()
    assert texts.grad is not None
    assert texts.grad.abs().sum() > 0
    assert all(p.grad is None for p in prior.map.parameters())


def test_the_same_step_practises_the_same_words(prior: WordPrior) -> None:
    first, again, other = prior.words(5, 8), prior.words(5, 8), prior.words(6, 8)
    assert torch.equal(first[0], again[0])
    assert not (first[0].shape == other[0].shape and torch.equal(first[0], other[0]))
