"""Train the natural-image teacher: a CLIP at 64 pixels on Tiny-ImageNet's captions.

Each step uses a batch of pictures and one caption of every class (a random name in a random
template). Pictures are cropped, mirrored, coloured and mixed (mixup or CutMix); both directions of
the contrastive loss have the mixed classes as soft targets (like UniCL's labels, arXiv 2204.03610).

    python benchmarks/natural_teacher.py --scale gpu --data tiny-imagenet-200 --work runs/natural
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from natural_data import CHOOSE, PROMPT, captions, class_names, pictures, val_half
from natural_profiles import PROFILES, Profile

if TYPE_CHECKING:
    from tinyclip_edge.config import OptimConfig
    from tinyclip_edge.models import LoadedClip

LR, DECAY, WARMUP = 1e-3, 0.1, 0.05  # warm-up: share of all steps
CROP, COLOUR = (0.25, 1.0), 0.4
MIXUP, CUTMIX = 0.5, 1.0  # parameter of each one's Beta distribution; a batch has one of the two
SPEED_STEPS = (30, 80)  # for --most-seconds, a step's time is measured between these steps
SIZE = 64


def decode(jpeg: bytes) -> np.ndarray:
    image = Image.open(BytesIO(jpeg)).convert("RGB")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    planes: np.ndarray = np.asarray(image).transpose(2, 0, 1)
    return planes


class Pictures:
    """Pictures as uint8 on the device, and their classes."""

    def __init__(
        self, samples: list[tuple[str, str, bytes]], classes: list[str], device: str
    ) -> None:
        with ProcessPoolExecutor() as pool:
            pixels = np.stack(list(pool.map(decode, [jpeg for *_, jpeg in samples], chunksize=500)))
        place = {name: number for number, name in enumerate(classes)}
        self.pixels = torch.from_numpy(pixels).to(device)
        self.classes = torch.tensor([place[folder] for folder, *_ in samples], device=device)

    def __len__(self) -> int:
        return len(self.classes)


def new_clip(profile: Profile) -> LoadedClip:
    from starter.teacher_model import PREPROCESS_CONFIG
    from tinyclip_edge.models.assemble import assemble
    from tinyclip_edge.runtime.tokenizer import ClipTokenizer

    tokenizer = tokenizer_file()
    config = {**profile.teacher, "text_cfg": dict(profile.teacher["text_cfg"])}
    context = config["text_cfg"]["context_length"]
    size = ClipTokenizer.from_file(tokenizer, context).vocab_size
    config["text_cfg"]["vocab_size"] = size
    return assemble(config, PREPROCESS_CONFIG, name="natural-teacher", tokenizer_file=tokenizer)


def tokenizer_file() -> Path:
    """Return the starter's tokenizer, which splits unknown words into pieces."""
    from tinyclip_edge.starter import teacher_path

    return Path(teacher_path()) / "tokenizer.json"


def to_device(values: np.ndarray, device: str) -> Tensor:
    """Copy values to the device without waiting for its pending work."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor


def mixed(
    pixels: Tensor, classes: Tensor, count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return pictures [B, 3, H, W] joined with a shuffled batch, and soft classes [B, C]."""
    partners = to_device(rng.permutation(len(pixels)), pixels.device.type)
    if rng.random() < 0.5:
        share = float(rng.beta(MIXUP, MIXUP))
        pixels = torch.lerp(pixels[partners], pixels, share)
    else:
        side = math.sqrt(1 - rng.beta(CUTMIX, CUTMIX)) * SIZE
        y, x = rng.random(2) * SIZE
        y0, x0 = (max(0, round(v - side / 2)) for v in (y, x))
        y1, x1 = (min(SIZE, round(v + side / 2)) for v in (y, x))
        pixels = pixels.clone()
        pixels[:, :, y0:y1, x0:x1] = pixels[partners][:, :, y0:y1, x0:x1]
        share = 1 - (y1 - y0) * (x1 - x0) / SIZE**2
    hot = F.one_hot(classes, count).float()
    return pixels, torch.lerp(hot[partners], hot, share)


def loss_of(images: Tensor, texts: Tensor, soft: Tensor, scale: Tensor) -> Tensor:
    """Return the two-way contrastive loss of [B, D] and [C, D] with soft classes [B, C]."""
    logits = scale * images @ texts.T
    i2t = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    there = soft.sum(
        dim=0
    )  # a class without a picture has no weight; clamping avoids boolean indexing
    t2i = -(soft * logits.log_softmax(dim=0)).sum(dim=0) / there.clamp(min=1e-9)
    return (i2t + t2i.sum() / there.gt(0).sum()) / 2


def schedule(steps: int) -> OptimConfig:
    from tinyclip_edge.config import OptimConfig

    return OptimConfig(lr=LR, weight_decay=DECAY, warmup=WARMUP, steps=steps)


class Training:
    """The teacher, its data on the device, and its training step."""

    def __init__(self, arguments: argparse.Namespace, profile: Profile) -> None:
        from tinyclip_edge.train.optimizer import make_optimizer
        from tinyclip_edge.train.tasks.encoders import PairEncoder, pixel_codec, tokenize

        self.profile, self.device = profile, arguments.device
        names = class_names(arguments.data, profile.classes)
        samples = list(pictures(arguments.data / "train-00.tar", list(names), profile.most))
        self.train = Pictures(samples, list(names), self.device)
        torch.manual_seed(arguments.seed)
        self.clip = new_clip(profile)
        self.clip.model.requires_grad_(True).train()
        self.encoder = PairEncoder(self.clip).to(self.device)
        self.plain = PairEncoder(
            self.clip
        )  # for evaluation, whose shapes would trigger recompilation
        if arguments.compile:
            self.encoder.compile_blocks()
        self.codec = pixel_codec(self.clip)
        per_class = [captions(synonyms) for synonyms in names.values()]
        self.counts = np.array([len(texts) for texts in per_class])
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        flat = [text for texts in per_class for text in texts]
        self.tokens = tokenize(self.clip.tokenizer, flat).to(self.device)
        prompts = [PROMPT.replace("{}", synonyms[0]) for synonyms in names.values()]
        self.prompts = tokenize(self.clip.tokenizer, prompts).to(self.device)
        self.optimizer = make_optimizer(self.encoder, schedule(profile.epochs))
        self.rng = np.random.default_rng(arguments.seed)
        self.seed = arguments.seed

    def step(self, number: int, rows: Tensor, lr: float) -> Tensor:
        """Update once; return the loss."""
        from tinyclip_edge.data.augment import Augment, apply_draws

        draws = Augment(CROP, 0.5, COLOUR).draw(self.seed, number, len(rows))
        draws = to_device(draws.numpy(), self.device)
        pixels = self.codec.restore(apply_draws(self.train.pixels[rows], draws))
        pixels, soft = mixed(pixels, self.train.classes[rows], self.profile.classes, self.rng)
        text_rows = self.starts + (self.rng.random(len(self.counts)) * self.counts).astype(np.int64)
        tokens = self.tokens[to_device(text_rows, self.device)]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
            images, texts, scale, _ = self.encoder(pixels, tokens)
        loss = loss_of(images, texts, soft, scale)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.encoder.log_scale.clamp_(0, math.log(100))
        return loss.detach()

    @torch.no_grad()
    def accuracy(self, validation: Pictures) -> float:
        """Return zero-shot top-1 in percent, with one prompt per class."""
        self.plain.eval()
        texts = self.plain.encode_text(self.prompts)
        right = 0
        batches = zip(
            torch.split(validation.pixels, 500), torch.split(validation.classes, 500), strict=True
        )
        for pixels, classes in batches:
            scores = self.plain.encode_image(self.codec.restore(pixels)) @ texts.T
            right += int((scores.argmax(1) == classes).sum())
        self.plain.train()
        return 100 * right / len(validation)


def batches(count: int, batch: int, device: str) -> Iterator[Tensor]:
    """Yield rows ``[B]`` of all pictures in a new order each epoch, without end."""
    per_epoch, number = count // batch, 0
    while True:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(number))
        yield from order[: per_epoch * batch].view(-1, batch).to(device)
        number += per_epoch


def teach(run: Training, validation: Pictures, most_seconds: float | None) -> dict[int, float]:
    """Train for the profile's epochs or about ``most_seconds``; return accuracy by step."""
    from tinyclip_edge.train.optimizer import lr_at

    batch, count = run.profile.teacher_batch, len(run.train)
    per_epoch, curve, began = count // batch, dict[int, float](), time.monotonic()
    steps, timed = run.profile.epochs * per_epoch, began
    for number, rows in enumerate(batches(count, batch, run.device), 1):
        loss = run.step(number - 1, rows, lr_at(number - 1, schedule(steps)))
        if number in SPEED_STEPS and most_seconds:
            loss.item()  # waits for the device
        if number == SPEED_STEPS[0]:
            timed = time.monotonic()
        if number == SPEED_STEPS[1] and most_seconds:
            speed = (time.monotonic() - timed) / (SPEED_STEPS[1] - SPEED_STEPS[0])
            remaining_seconds = most_seconds - (time.monotonic() - began)
            steps = min(steps, number + max(1, int(remaining_seconds / speed)))
            print(f"{1e3 * speed:.1f} ms a step, {steps} steps", flush=True)
        if number % (per_epoch * max(1, run.profile.epochs // 10)) == 0 or number == steps:
            curve[number] = run.accuracy(validation)
            line = f"step {number} {loss.item():.3f} {curve[number]:.1f} %"
            print(f"{line} {time.monotonic() - began:.0f} s", flush=True)
        if number == steps:
            break
    return curve


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, save to ``work/teacher`` and return the record."""
    from tinyclip_edge.models import count_parameters, save_local_dir

    profile = PROFILES[arguments.scale]
    began = time.monotonic()
    run = Training(arguments, profile)
    names = class_names(arguments.data, profile.classes)
    half = list(val_half(arguments.data, list(names), CHOOSE, profile.most))
    validation = Pictures(half, list(names), arguments.device)
    print(f"{len(run.train)} pictures read in {time.monotonic() - began:.0f} s", flush=True)
    curve = teach(run, validation, arguments.most_seconds)
    steps = max(curve)
    run.clip.model.to("cpu").eval()
    save_local_dir(arguments.work / "teacher", run.clip)
    count = count_parameters(run.clip.model)
    return {
        "steps": steps,
        "epochs": round(steps / (len(run.train) // profile.teacher_batch), 2),
        "batch": profile.teacher_batch,
        "seconds": round(time.monotonic() - began, 1),
        "encoder_parameters": count.encoders,
        "token_parameters": count.token_embedding,
        "top1_choose": curve,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Tiny-ImageNet")
    parser.add_argument("--work", type=Path, default=Path("runs/natural"))
    parser.add_argument("--scale", choices=PROFILES, default="smoke")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-seconds", type=float, help="fit the number of steps to this time")
    parser.add_argument("--compile", action="store_true", help="compile the transformers' blocks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    record = arguments.work / "teacher.json"
    if record.exists():
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    results = train(arguments)
    record.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
