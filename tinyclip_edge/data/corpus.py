"""The texts from which a student's vocabulary is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tinyclip_edge.data.source import PairSource
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.paths import expanded, read_lines

KEY = "student.vocab"
PAIRS_READ = 1_000_000


def corpus_lines(vocab: str) -> tuple[str, ...]:
    """Return the texts of a file, one per line. Raises ConfigError and DataError."""
    path = Path(expanded(vocab))
    if path.suffix == ".json":
        raise ConfigError(f"{KEY} {vocab} must be a text file with one text per line, not JSON")
    return read_lines(path, KEY)


def captions(source: PairSource) -> Iterator[str]:
    """Yield all captions of the first million pairs, or the source's unpaired texts, if any."""
    if source.texts is not None:
        yield from source.texts.lines
        return
    for pair in islice(source, PAIRS_READ):
        yield from pair.captions
