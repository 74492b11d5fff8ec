"""Teach the teacher's text tower what phrases mean: ``python -m starter.train_text --out DIR``.

Its image tower stays as it is, and its embeddings of the training pictures, clean and augmented,
are computed once, so that a step costs a fraction of one of ``train_teacher``. The text tower
learns to tell a picture by its captions, and where among all pictures a phrase belongs, from the
sentence encoder's affinities (see ``phrases.py`` and ``meanings.py``).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from starter.evaluate_teacher import TEST_SETS, VAL_SETS, Evaluator, load_teacher
from starter.meanings import SCALE, MeaningPrior, PhraseBank
from starter.picture_embeddings import concept_places, embed_pictures
from starter.teacher_data import Sampler
from starter.teacher_model import encode_text_by_length, export, layer_drop
from starter.train_teacher import LAYER_DROP, WARMUP, Log
from starter.updates import average, optimizers, update
from tinyclip_edge.starter import kit_path, teacher_path

AUGMENTED = 2  # versions of each picture beside the clean one
PRACTICE = 384  # phrases without a picture per step
EVALUATE = 500  # steps between evaluations


class TextRun:
    """The text tower, its average, and one training step."""

    def __init__(self, arguments: argparse.Namespace, sampler: Sampler, bank: PhraseBank) -> None:
        # open_clip's CLIP is untyped.
        self.model: Any = load_teacher(arguments.init).requires_grad_(False).eval()
        self.ema: Any = load_teacher(arguments.init).requires_grad_(False)
        self.sampler, self.seed, self.steps = sampler, arguments.seed, arguments.steps
        self.lr, self.step = arguments.lr, 0
        self.pictures = embed_pictures(self.model, sampler, AUGMENTED)
        places = concept_places(
            self.pictures, torch.from_numpy(sampler.rows), len(sampler.concepts)
        )
        self.prior = MeaningPrior(bank, places).requires_grad_(False)
        self.places = places.T * SCALE
        self.trained: dict[str, nn.Parameter] = {
            name: p for name, p in self.model.named_parameters() if not name.startswith("visual.")
        }
        for p in self.trained.values():
            p.requires_grad_()
        self.optimizers = optimizers(self.trained.items(), (), self.lr, "muon")

    def train_step(self) -> tuple[float, float]:
        """One update; returns contrastive loss and that of meanings."""
        rate = min(1.0, (self.step + 1) / WARMUP) * (1 - self.step / self.steps)
        rng = np.random.default_rng((self.seed, self.step, 2))
        picks = self.sampler.pick(self.step)
        rows = torch.from_numpy(self.sampler.rows[picks])
        ids, meanings = self.prior.bank.batch(self.prior.bank.captions(rows.tolist(), rng))
        practice_ids, practice_meanings = self.prior.bank.practice(self.step, PRACTICE)
        versions = torch.from_numpy(rng.integers(len(self.pictures), size=len(picks)))
        images = self.pictures[versions, torch.tensor(picks)]
        drop = random.Random(self.seed * 1_000_003 + self.step)
        with layer_drop(self.model.transformer, LAYER_DROP, drop):
            texts = encode_text_by_length(self.model, ids)
            practised = encode_text_by_length(self.model, practice_ids)
        logits = self.model.logit_scale.exp() * images @ texts.T
        target, back = self.prior.shared_targets(rows, meanings)
        contrastive = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, back))
        meaning = self.prior.text_loss(
            self.places, torch.cat([texts, practised]), torch.cat([meanings, practice_meanings])
        )
        torch.autograd.backward(contrastive + meaning)
        update(self.optimizers, self.trained.values(), self.lr * rate)
        self._after()
        return contrastive.item(), meaning.item()

    @torch.no_grad()
    def _after(self) -> None:
        self.model.logit_scale.clamp_(max=4.6052)  # 100
        self.step += 1
        slow = dict(self.ema.named_parameters())
        average(((slow[name], p) for name, p in self.trained.items()), self.step)


def train(arguments: argparse.Namespace) -> None:
    """Train, and write the averaged weights."""
    from tokenizers import Tokenizer

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    bank = PhraseBank(arguments.phrases, tokenizer)
    sampler = Sampler(arguments.kit, tokenizer, arguments.batch, arguments.seed, bank)
    run = TextRun(arguments, sampler, bank)
    log = Log(out / "training_log.jsonl")
    evaluate = Evaluator(arguments.kit, tokenizer, VAL_SETS)
    losses = []
    while run.step < arguments.steps:
        losses.append(run.train_step())
        if run.step % 25 == 0:
            contrastive, meaning = (
                round(sum(x) / len(losses), 3) for x in zip(*losses, strict=True)
            )
            log(step=run.step, loss=contrastive, meaning=meaning)
            losses = []
        if run.step % EVALUATE == 0:
            log(step=run.step, val=evaluate(run.ema))
            export(run.ema.state_dict(), out / "snapshot", run.ema.vocab_size)
    log(step=run.step, final=Evaluator(arguments.kit, tokenizer, TEST_SETS)(run.ema))
    export(run.ema.state_dict(), out / "final", run.ema.vocab_size)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kit", type=Path, default=kit_path())
    parser.add_argument("--tokenizer", type=Path, default=teacher_path() / "tokenizer.json")
    parser.add_argument("--init", type=Path, default=teacher_path(), help="teacher to start from")
    parser.add_argument("--phrases", type=Path, required=True, help="from starter.phrases")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256, help="distinct concepts per step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
