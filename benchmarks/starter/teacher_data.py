"""Batches for the teacher: distinct concepts, sampled captions, decoded pictures in memory."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from starter.augment import augment
from starter.evaluate_teacher import stack_pixels
from starter.meanings import PhraseBank
from tinyclip_edge.starter.kit import KitSample, read_split

FLAG_WEIGHT = 0.6
# By first step, the shares of emoji in a cycle of batches: mostly one kind, for similar negatives,
# but some of each. Icons take longer to learn, so they get more once the emoji are learnt.
EMOJI_SHARES = {
    0: (0.85, 0.2),
    1150: (0.75, 0.15, 0.1),
    1819: (0.6, 0.05, 0.1),
    3209: (0.7, 0.1, 0.3),
}
LONGEST = 10  # tokens of a training caption, start and end included, unless the name has more
TEMPLATES = ("a photo of {}", "an icon of {}", "a picture of a {}", "{} icon", "the {}", "{} emoji")


def _caption(sample: KitSample, rng: np.random.Generator) -> str:
    name, tags = sample.concept, sample.about["keywords"]
    roll = rng.random()
    if roll < 0.12:
        return TEMPLATES[rng.integers(len(TEMPLATES))].format(name)
    if sample.about["kind"] == "emoji":
        if roll < 0.55 or not tags:
            return name
        some = [tags[i] for i in rng.permutation(len(tags))[: rng.integers(1, 4)]]
        return ", ".join([name, *some] if roll < 0.82 else some)
    if roll < 0.24 and " " in name:
        return " ".join(rng.permutation(name.split()))
    if roll < 0.4 and len(sample.captions) > 1:
        return sample.captions[rng.integers(1, len(sample.captions))]
    return name


class Sampler:
    """Draws training batches; the choice of samples depends on seed and step alone."""

    def __init__(
        self, kit: Path, tokenizer: Tokenizer, batch: int, seed: int, bank: PhraseBank | None = None
    ) -> None:
        self.bank = bank
        self.samples = list(read_split(kit, "train"))
        self.tokenizer, self.batch, self.seed = tokenizer, batch, seed
        self.pixels = stack_pixels(self.samples)
        spread = self.pixels.amax(dim=1) - self.pixels.amin(dim=1)
        self.mono = spread.flatten(1).amax(dim=1) <= 12
        self.concepts = {c: i for i, c in enumerate(sorted({s.concept for s in self.samples}))}
        if bank is not None and bank.concepts != list(self.concepts):
            raise SystemExit("the phrase bank belongs to another kit; build it again")
        self.rows = np.array([self.concepts[s.concept] for s in self.samples])
        self.pools = {kind: self._pool(kind) for kind in ("emoji", "icon")}

    def _pool(self, kind: str) -> tuple[list[str], np.ndarray[Any, Any], dict[str, list[int]]]:
        members: dict[str, list[int]] = defaultdict(list)
        for i, sample in enumerate(self.samples):
            if sample.about["kind"] == kind:
                members[sample.concept].append(i)
        names = sorted(members)
        weights = np.ones(len(names))
        for i, name in enumerate(names):
            if kind == "icon":  # names drawn by several families teach more
                weights[i] = min(len(members[name]), 4) ** 0.5
            elif self.samples[members[name][0]].about["flag"]:
                weights[i] = FLAG_WEIGHT
        return names, weights / weights.sum(), members

    def pick(self, step: int) -> list[int]:
        """Return the samples of a step, each of another concept."""
        rng = np.random.default_rng((self.seed, step))
        row_by_concept: dict[str, int] = {}
        cycle = EMOJI_SHARES[max(start for start in EMOJI_SHARES if start <= step)]
        emoji = round(self.batch * cycle[step % len(cycle)])
        for kind, count in (("emoji", emoji), ("icon", self.batch)):
            names, weights, members = self.pools[kind]
            for j in rng.choice(len(names), size=min(count, len(names)), replace=False, p=weights):
                if len(row_by_concept) < self.batch and names[j] not in row_by_concept:
                    row_by_concept[names[j]] = int(rng.choice(members[names[j]]))
        return list(row_by_concept.values())

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Augmented pictures [B, 3, 64, 64], ids [B, longest], concept rows [B] of a step.

        The fourth tensor has the texts' meanings [B, 384]; it is empty without a phrase bank.
        """
        picks = self.pick(step)
        rng = np.random.default_rng((self.seed, step, 1))
        torch.manual_seed(self.seed * 1_000_003 + step)
        index = torch.tensor(picks)
        rows = torch.from_numpy(self.rows[picks])
        if self.bank is not None:
            ids, meanings = self.bank.batch(self.bank.captions(rows.tolist(), rng))
            return augment(self.pixels[index], self.mono[index]), ids, rows, meanings
        texts = [_caption(self.samples[i], rng) for i in picks]
        encoded = self.tokenizer.encode_batch(texts)
        for i, e in enumerate(encoded):  # long captions cost time: use only the name instead
            if sum(e.attention_mask) > LONGEST:
                encoded[i] = self.tokenizer.encode(self.samples[picks[i]].concept)
        ids = torch.tensor([e.ids for e in encoded])
        longest = max(sum(e.attention_mask) for e in encoded)
        return augment(self.pixels[index], self.mono[index]), ids[:, :longest], rows, torch.empty(0)
