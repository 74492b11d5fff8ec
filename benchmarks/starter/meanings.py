"""Meanings of phrases as a target for both towers: affinity to the names of all concepts.

A sentence encoder (see ``phrases.py``) measures how close a phrase is to each training concept. The
text tower mimics these affinities, the image tower those of its concept: affinity mimicking of
arXiv 2309.12314 with a text-only teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_WIDTH = 256
TEMPERATURE = 0.04  # of the sentence encoder's cosines
SCALE = 30.0  # of the towers' cosines to the concepts' places
OWN_CONCEPT = 0.5  # share of the target that is the picture's own concept
PRACTICE = 192  # phrases per step
LONGEST = 12  # maximum tokens of a phrase
SEED_STEP = 1_000_003
DESCRIBED, KEYWORDS = 0.35, 0.3  # shares of captions, the rest are names


class PhraseBank:
    """Texts with meanings ``[P, 384]``, and the rows of texts that fit each training concept."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        self.texts: list[str] = arrays["texts"].tolist()
        self.meanings = torch.from_numpy(arrays["meanings"].astype(np.float32))
        self.concepts: list[str] = arrays["concepts"].tolist()
        self.concept_meanings = torch.from_numpy(arrays["concept_meanings"].astype(np.float32))
        self._own = _lists(arrays["own_rows"], arrays["own_ends"])
        self._described = _lists(arrays["described_rows"], arrays["described_ends"])
        encoded = tokenizer.encode_batch(self.texts)
        self.ids = torch.tensor([e.ids for e in encoded], dtype=torch.int32)
        lengths = np.array([sum(e.attention_mask) for e in encoded])
        self.lengths = torch.from_numpy(lengths)
        self._short = np.flatnonzero(lengths <= LONGEST)

    def captions(self, concepts: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Return a row of one text for each concept: its name, a keyword, or a description."""
        rows = []
        for concept in concepts:
            own, described = self._own[concept], self._described[concept]
            roll = rng.random()
            if roll < DESCRIBED and len(described):
                rows.append(int(rng.choice(described)))
            elif roll < DESCRIBED + KEYWORDS and len(own) > 1:
                rows.append(int(rng.choice(own[1:])))
            else:
                rows.append(int(own[0]))
        return [
            row if self.lengths[row] <= LONGEST else int(self._own[concept][0])
            for row, concept in zip(rows, concepts, strict=True)
        ]

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids ``[N, L]`` and meanings ``[N, 384]`` of rows, cut to the longest text."""
        index = torch.tensor(rows)
        return self.ids[index, : int(self.lengths[index].max())].long(), self.meanings[index]

    def practice(self, step: int, count: int = PRACTICE) -> tuple[Tensor, Tensor]:
        """Ids and meanings of phrases that need no picture."""
        rng = np.random.default_rng((SEED_STEP, step))
        return self.batch([int(row) for row in rng.choice(self._short, size=count)])


def _lists(rows: NDArray[Any], ends: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(rows, ends[1:-1])


class MeaningPrior(nn.Module):
    """A place in the embedding space for each concept, discarded after training.

    ``places`` are the concepts' embeddings ``[C, 256]`` of a trained image tower, random without.
    """

    def __init__(self, bank: PhraseBank, places: Tensor | None = None) -> None:
        super().__init__()
        self.bank = bank
        if places is None:
            places = torch.randn(len(bank.concepts), EMBEDDING_WIDTH) * EMBEDDING_WIDTH**-0.5
        self.places = nn.Parameter(places.clone())
        self.concept_meanings: Tensor
        self.register_buffer("concept_meanings", bank.concept_meanings, persistent=False)

    def affinity(self, meanings: Tensor) -> Tensor:
        """Shares ``[N, C]`` of all concepts in meanings ``[N, 384]``; each row sums to one."""
        return F.softmax(meanings @ self.concept_meanings.T / TEMPERATURE, dim=-1)

    def loss(
        self,
        encode: Callable[[Tensor], Tensor],
        images: Tensor,
        texts: Tensor,
        rows: Tensor,
        captions: Tensor,
        step: int,
    ) -> Tensor:
        """Mean cross-entropy of pictures, captions and practice phrases to their affinities.

        ``images`` and ``texts`` are unit norm ``[B, 256]``, ``rows`` their concepts ``[B]`` and
        ``captions`` the meanings ``[B, 384]`` of the texts; ``encode`` embeds ids.
        """
        places = F.normalize(self.places, dim=-1).T * SCALE
        ids, meanings = self.bank.practice(step)
        with torch.no_grad():
            of_images = (1 - OWN_CONCEPT) * self.affinity(self.concept_meanings[rows])
            of_images[torch.arange(len(rows)), rows] += OWN_CONCEPT
        return (
            F.cross_entropy(images @ places, of_images)
            + self.text_loss(places, texts, captions.to(rows.device))
            + self.text_loss(places, encode(ids), meanings.to(rows.device))
        ) / 3

    def text_loss(self, places: Tensor, texts: Tensor, meanings: Tensor) -> Tensor:
        """Cross-entropy of texts ``[N, 256]`` among scaled places ``[256, C]`` to affinities."""
        with torch.no_grad():
            target = self.affinity(meanings)
        return F.cross_entropy(texts @ places, target)

    def shared_targets(self, rows: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Targets ``[B, B]`` of a batch's pictures and of its texts; each row sums to one.

        Half of the weight is on a picture's own caption, half is shared by similar meanings.
        """
        with torch.no_grad():
            cosines = self.concept_meanings[rows] @ captions.to(rows.device).T
            alike = F.softmax(cosines / TEMPERATURE, dim=-1)
            targets = 0.5 * (alike + torch.eye(len(rows), device=rows.device))
            return targets, targets.T / targets.sum(dim=0)[:, None]
