"""Measure a teacher on the kit: ``python -m tinyclip_edge.starter.evaluate_teacher``.

Every set is N pictures and N captions, one each per concept; the caption is the concept's name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tinyclip_edge.starter import kit_path, teacher_path
from tinyclip_edge.starter.kit import KitSample, read_split
from tinyclip_edge.starter.teacher_model import encode_image, encode_text, new_model, normalise

DRAWS = 50  # random candidate sets of the among-100 figure
Test = Callable[[KitSample], bool]
TEST_SETS: dict[str, tuple[str, Test]] = {
    "style twemoji": ("test_style", lambda s: s.about["family"] == "twemoji"),
    "style twemoji, no flags": (
        "test_style",
        lambda s: s.about["family"] == "twemoji" and not s.about["flag"],
    ),
    "style twemoji, flags": (
        "test_style",
        lambda s: s.about["family"] == "twemoji" and s.about["flag"],
    ),
    "style ph": ("test_style", lambda s: s.about["family"] == "ph"),
    "concepts emoji": (
        "test_concepts",
        lambda s: s.about["kind"] == "emoji" and s.about["canonical"],
    ),
    "concepts emoji, twemoji": ("test_concepts", lambda s: s.about["family"] == "twemoji"),
    "concepts icon": (
        "test_concepts",
        lambda s: s.about["kind"] == "icon" and s.about["canonical"],
    ),
    "concepts all": ("test_concepts", lambda s: bool(s.about["canonical"])),
}
VAL_SETS: dict[str, tuple[str, Test]] = {
    "val style": ("val", lambda s: s.about["family"] == "streamline-emojis"),
    "val concepts emoji": (
        "val",
        lambda s: s.about["kind"] == "emoji" and s.about["family"] == "noto",
    ),
    "val concepts icon": ("val", lambda s: s.about["kind"] == "icon" and s.about["canonical"]),
}


def stack_pixels(samples: Iterable[KitSample]) -> Tensor:
    """Decoded pictures, uint8 [N, 3, 64, 64]."""
    return (
        torch.from_numpy(np.stack([s.pixels() for s in samples])).permute(0, 3, 1, 2).contiguous()
    )


def recalls(similarity: Tensor) -> dict[str, float]:
    """Percentages from an image x text similarity [N, N] whose diagonal holds the pairs."""
    n = len(similarity)
    right = similarity.diagonal()
    result: dict[str, float] = {"n": n}
    for name, axis in (("i2t", 1), ("t2i", 0)):
        better = (similarity > right.unsqueeze(axis)).sum(dim=axis)
        for k in (1, 5):
            result[f"{name}@{k}"] = round(100 * (better < k).float().mean().item(), 2)
    size = min(100, n)
    generator = torch.Generator().manual_seed(0)
    hits = []
    for _ in range(DRAWS):
        pick = torch.randperm(n, generator=generator)[:size]
        part = similarity[pick][:, pick]
        hits += [(part.argmax(1) == torch.arange(size)).float().mean()]
        hits += [(part.argmax(0) == torch.arange(size)).float().mean()]
    result["among100"] = round(100 * torch.stack(hits).mean().item(), 2)
    return result


class Evaluator:
    """Keeps the evaluation sets decoded and tokenised, so that repeated measuring is cheap."""

    def __init__(
        self,
        kit: Path,
        tokenizer: Tokenizer,
        sets: dict[str, tuple[str, Test]],
        device: str = "cpu",
    ) -> None:
        self.device = device
        by_split = {split: list(read_split(kit, split)) for split in {s for s, _ in sets.values()}}
        self.sets: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (split, wanted) in sets.items():
            chosen = {s.concept: s for s in by_split[split] if wanted(s)}
            samples = list(chosen.values())
            ids = torch.tensor(
                [e.ids for e in tokenizer.encode_batch([s.concept for s in samples])]
            )
            self.sets[name] = (stack_pixels(samples), ids)

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module) -> dict[str, dict[str, float]]:
        """Recalls of every set, in percent."""
        model.eval()
        result = {}
        for name, (pixels, ids) in self.sets.items():
            images = torch.cat(
                [
                    encode_image(model, normalise(p.to(self.device)))
                    for p in torch.split(pixels, 256)
                ]
            )
            texts = torch.cat(
                [encode_text(model, i.to(self.device)) for i in torch.split(ids, 256)]
            )
            result[name] = recalls((images @ texts.T).cpu())
        return result


def load_teacher(folder: Path) -> torch.nn.Module:
    """The exported teacher in float32, without open_clip's factory."""
    from safetensors.torch import load_file

    state = {
        k: v.float() for k, v in load_file(str(folder / "open_clip_model.safetensors")).items()
    }
    model: torch.nn.Module = new_model(state["token_embedding.weight"].shape[0])
    model.load_state_dict(state)
    return model.eval()


def main() -> None:
    """Command line entry: prints one JSON line per set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, default=teacher_path())
    parser.add_argument("--kit", type=Path, default=kit_path())
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.teacher / "tokenizer.json"))
    evaluator = Evaluator(arguments.kit, tokenizer, {**TEST_SETS, **VAL_SETS})
    for name, figures in evaluator(load_teacher(arguments.teacher)).items():
        sys.stdout.write(json.dumps({"set": name, **figures}) + "\n")


if __name__ == "__main__":
    main()
