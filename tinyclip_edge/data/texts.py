"""Texts without pictures, drawn independently of the pictures.

M texts, B in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinyclip_edge.config.sources import SLOT, TextsConfig, TextsSource
from tinyclip_edge.data.pairs import Halves, Pair
from tinyclip_edge.errors import DataError
from tinyclip_edge.paths import expanded, read_lines

Ints = npt.NDArray[np.int64]
DRAWS = 9  # stream index of the generator for texts
PART = 4096  # texts in a part of a feature cache
FEWEST = 2  # texts: a distribution over one says nothing


@dataclass(slots=True)
class Texts:
    """Distinct texts; those of a batch are a function of (seed, step)."""

    name: str
    lines: tuple[str, ...]  # M; empty if a run has only pictures
    repeated: int = 0  # texts that were left out because they equal an earlier one
    cached: Mapping[str, Halves] = field(default_factory=dict)  # the teacher's features, [D]
    _epoch: tuple[tuple[int, int], Ints] | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def fingerprint(self) -> str:
        """Hash of the texts in their order."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    @property
    def parts(self) -> tuple[TextsPart, ...]:
        """A few thousand texts each, for a feature cache."""
        starts = range(0, len(self), PART)
        return tuple(TextsPart(self.lines[start : start + PART]) for start in starts)

    def notes(self) -> list[str]:
        """Return a line about repeated texts, if there are any."""
        if not self.repeated:
            return []
        return [f"{self.name}: {self.repeated:,} repeated texts count once"]

    def draw(self, seed: int, step: int, size: int) -> Ints:
        """Return the numbers ``[B]`` of a step's texts; an epoch has each text at most once.

        With fewer than ``size`` texts, each is in a batch equally often, give or take one. Without
        texts the result is empty.
        """
        count = len(self)
        if count < size:
            rng = np.random.default_rng([seed, DRAWS, step, size])
            rounds = -(-size // count) if count else 0
            orders = [rng.permutation(count) for _ in range(rounds)]
            return np.concatenate([np.empty(0, dtype=np.int64), *orders])[:size]
        epoch, slot = divmod(step, count // size)
        if self._epoch is None or self._epoch[0] != (seed, epoch):
            rng = np.random.default_rng([seed, DRAWS, epoch])
            self._epoch = ((seed, epoch), rng.permutation(count))
        return self._epoch[1][slot * size : (slot + 1) * size]


@dataclass(frozen=True, slots=True)
class TextsPart:
    """Texts as a part without pictures."""

    texts: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of the texts."""
        return f"texts {hashlib.sha256(chr(10).join(self.texts).encode()).hexdigest()[:32]}"

    @property
    def pairs(self) -> int:
        """0: the texts belong to no picture."""
        return 0

    @property
    def at_most(self) -> int:
        """0, like ``pairs``."""
        return 0

    @property
    def size(self) -> int:
        """0 bytes of pictures."""
        return 0

    def __iter__(self) -> Iterator[Pair]:
        return iter(())


def open_texts(source: TextsSource | None) -> Texts:
    """Read ``data.texts``; None gives no texts.

    Raises DataError for a file that is missing, empty or not UTF-8, and for a single text.
    """
    if source is None:
        return Texts("no texts", ())
    if isinstance(source, TextsConfig):
        name, texts = _labelled(source)
    else:
        name, texts = _lines(source, "data.texts")
    distinct = tuple(dict.fromkeys(texts))
    if len(distinct) < FEWEST:
        raise DataError(
            f"{name} has a single text, '{distinct[0]}'; add others, because a student learns how "
            "the teacher compares a picture with several"
        )
    return Texts(name, distinct, len(texts) - len(distinct))


def open_labels(config: TextsConfig) -> tuple[str, ...]:
    """Return the distinct labels. Raises DataError."""
    if isinstance(config.labels, str):
        labels = _lines(config.labels, "data.texts.labels")[1]
    else:
        labels = [" ".join(label.split()) for label in config.labels]
        if not all(labels):
            raise DataError("data.texts.labels contains an empty label; remove it")
    return tuple(dict.fromkeys(labels))


def _labelled(config: TextsConfig) -> tuple[str, Sequence[str]]:
    labels = open_labels(config)
    texts = [template.replace(SLOT, label) for label in labels for template in config.templates]
    name = f"{len(labels):,} labels in {len(config.templates):,} templates"
    return name, texts


def _lines(source: str | list[str], key: str) -> tuple[str, list[str]]:
    names = [source] if isinstance(source, str) else source
    lines = [line for name in names for line in read_lines(Path(expanded(name)), key)]
    return ", ".join(names), lines
