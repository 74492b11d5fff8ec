"""MobileCLIP2-S0's image tower with weights suited to measure int8; see convolution_int8.py.

A fresh network says little about accuracy: its layer scales are 1e-5, so most blocks have hardly
any effect, and its batch-norm statistics are trivial. The tower is therefore first trained on the
starter kit, at 64 pixels, to reproduce the starter teacher's image features; then its statistics
are measured at its own 256. ``spread`` is that network with channels of very different ranges
between its layers, as after long training: inputs of pointwise convolutions are rescaled exactly,
hidden channels by factors of the same kind.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any, TypeAlias

NAME = "MobileCLIP2-S0"
SIZE, TRAINED_SIZE = 256, 64  # pixels
BATCH = 32
SPREAD = 0.7  # standard deviation of the logarithm of channel factors

Torch: TypeAlias = Any  # tensors and modules; torch is imported where it is used


def pictures(split: str, count: int) -> Torch:
    """Return pictures of a split of the starter kit as uint8 ``[N, 3, 64, 64]``, evenly chosen."""
    import torch

    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    samples = list(read_split(kit_path(), split))
    chosen = samples[:: max(1, len(samples) // count)][:count]
    return torch.stack([torch.from_numpy(s.pixels().copy()).permute(2, 0, 1) for s in chosen])


def enlarged(batch: Torch, size: int) -> Torch:
    """Return pixels from 0 to 1, as MobileCLIP2 reads them, in another size."""
    from torch.nn.functional import interpolate

    values = batch.float() / 255.0
    return values if size == TRAINED_SIZE else interpolate(values, size, mode="bicubic").clamp(0, 1)


def trained_tower(options: argparse.Namespace) -> tuple[Torch, dict[str, Any]]:
    """Return the image tower after `options.steps` steps, and how close it is to its targets."""
    import torch

    from tinyclip_edge.models import load_clip

    torch.manual_seed(0)
    visual: Any = load_clip(NAME, allow_random=True).model.visual
    path = options.work / f"trained-{options.steps}.pt"
    if path.exists():
        stored = torch.load(path)
        visual.load_state_dict(stored["weights"])
        return visual, stored["learnt"]
    images, held_out = pictures("train", options.pictures), pictures("val", 480)
    targets, right = teacher_targets(images, held_out)
    for name, parameter in visual.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.1)
    visual.train()
    optimizer = torch.optim.AdamW(visual.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, options.steps)
    for step in range(options.steps):
        rows = torch.randint(len(images), (BATCH,))
        out = visual(enlarged(images[rows], TRAINED_SIZE))
        loss = 1 - torch.cosine_similarity(out, targets[rows]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(visual.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"step {step}: cosine {1 - loss.item():.3f}", flush=True)
    visual.eval()
    learnt = {str(TRAINED_SIZE): closeness(visual, held_out, right, TRAINED_SIZE)}
    measure_statistics(visual, images)
    learnt[str(SIZE)] = closeness(visual, held_out[:96], right[:96], SIZE)
    torch.save({"weights": visual.state_dict(), "learnt": learnt}, path)
    return visual, learnt


def teacher_targets(*image_sets: Torch) -> list[Torch]:
    """Return the starter teacher's image features of each set, centred, in 512 dimensions."""
    import torch

    from tinyclip_edge.models import load_clip

    teacher: Any = load_clip("starter-teacher").model
    with torch.inference_mode():
        features = [
            torch.cat(
                [
                    teacher.encode_image(part.float() / 127.5 - 1, normalize=True)
                    for part in images.split(64)
                ]
            )
            for images in image_sets
        ]
    lift = torch.linalg.qr(torch.randn(512, features[0].shape[1]))[0].T
    centre = features[0].mean(0)
    return [(rows - centre) @ lift for rows in features]


def closeness(visual: Torch, images: Torch, right: Torch, size: int) -> dict[str, float]:
    """Return the mean cosine to targets, and how often a picture's own target is the nearest."""
    import torch
    from torch.nn.functional import normalize

    with torch.inference_mode():
        parts = [visual(enlarged(part, size)) for part in images.split(BATCH)]
    scores = normalize(torch.cat(parts)) @ normalize(right).T
    nearest = scores.argmax(1) == torch.arange(len(scores))
    return {"cosine": scores.diag().mean().item(), "nearest": nearest.float().mean().item()}


def measure_statistics(visual: Torch, images: Torch) -> None:
    """Replace batch-norm statistics by those of pictures at full size."""
    import torch

    norms = [m for m in visual.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    with torch.no_grad():
        for part in images[:128].split(16):
            visual(enlarged(part, SIZE))
    visual.eval()


def spread(visual: Torch) -> Torch:
    """Return a copy with channels of log-normal ranges before both convolutions of each MLP."""
    import torch

    torch.manual_seed(3)
    out = copy.deepcopy(visual)
    with torch.no_grad():
        for mlp in (m for m in out.modules() if type(m).__name__ == "ConvMlp"):
            before, hidden = (
                torch.exp(SPREAD * torch.randn(conv.in_channels)) for conv in (mlp.fc1, mlp.fc2)
            )
            mlp.conv.bn.weight.mul_(before)
            mlp.conv.bn.bias.mul_(before)
            mlp.fc1.weight.div_(before[:, None, None])
            mlp.fc1.weight.mul_(hidden[:, None, None, None])
            mlp.fc1.bias.mul_(hidden)
            mlp.fc2.weight.div_(hidden[:, None, None])
    return out
