"""A loss of the whole embedding and of its prefixes (Matryoshka, arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tinyclip_edge.losses.objective import EmbeddedBatch, LossTerm, TermValue


class MatryoshkaTerm:
    """The mean of a term over the student's whole embedding and over prefixes of it.

    The teacher's embeddings stay whole. Logged values are those of the student's whole embedding.
    """

    def __init__(self, term: LossTerm, prefixes: Sequence[int]) -> None:
        self._term = term
        self._prefixes = tuple(prefixes)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Modules that the term trains in addition to the student."""
        return self._term.modules

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the mean; prefixes are normalised again."""
        whole = self._term(batch)
        losses = [self._term(batch.prefix(length)).loss for length in self._prefixes]
        return TermValue(torch.stack([whole.loss, *losses]).mean(), whole.logged)
