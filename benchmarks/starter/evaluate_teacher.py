"""Measure a teacher on the kit: ``python -m starter.evaluate_teacher``.

Every set has N pictures and N captions, one of each per concept; the caption is the concept's name.
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

from starter.teacher_model import encode_image, encode_text, new_model, normalise
from tinyclip_edge.evaluation.retrieve import hundred_way, retrieval_of_features
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.starter import kit_path, teacher_path
from tinyclip_edge.starter.kit import KitSample, read_split

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
STRICT = ", strict"  # subset without the concepts whose name occurs in training texts
CONCEPT_SETS = tuple(name for name, (split, _) in TEST_SETS.items() if split == "test_concepts")
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


def recalls(images: Features, texts: Features) -> dict[str, float]:
    """Return recalls in percent of paired unit-norm ``[N, D]`` features, as `eval` does."""
    recall = retrieval_of_features(images, texts)
    shares = {
        **{f"i2t@{k}": recall.i2t[k] for k in (1, 5)},
        **{f"t2i@{k}": recall.t2i[k] for k in (1, 5)},
        "mean@1": recall.mean(1),
        "among100": hundred_way(images, texts).top1,
    }
    return {"n": recall.n, **{name: round(100 * share, 2) for name, share in shares.items()}}


def names_met_in_training(kit: Path) -> frozenset[str]:
    """Names that occur, alone or between commas, in a training sample's captions or keywords.

    Case-folded. Includes the held-out keywords in the index, which earlier teachers were trained
    on.
    """
    index = json.loads((kit / "index.json").read_text(encoding="utf-8"))
    names: set[str] = set(index.get("held_out_keywords", ()))
    for sample in read_split(kit, "train"):
        for text in (*sample.captions, *sample.about["keywords"]):
            names.update((text, *text.split(",")))
    return frozenset(name.strip().casefold() for name in names)


def strict_sets(training_names: frozenset[str]) -> dict[str, tuple[str, Test]]:
    """The sets of unseen concepts, without those whose name occurs in any training text."""

    def strict(test: Test) -> Test:
        return lambda sample: test(sample) and sample.concept.casefold() not in training_names

    return {name + STRICT: ("test_concepts", strict(TEST_SETS[name][1])) for name in CONCEPT_SETS}


class Evaluator:
    """The evaluation sets, decoded and tokenised once for repeated measurement."""

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
        for name, (split, test) in sets.items():
            by_concept: dict[str, KitSample] = {}
            # Emoji first: `tinyclip-edge eval`, too, prefers an emoji's picture to an icon's.
            for sample in sorted(by_split[split], key=lambda s: s.about["kind"] != "emoji"):
                if test(sample):
                    by_concept.setdefault(sample.concept, sample)
            samples = list(by_concept.values())
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
            result[name] = recalls(images.cpu().numpy(), texts.cpu().numpy())
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
    sets = {**TEST_SETS, **strict_sets(names_met_in_training(arguments.kit)), **VAL_SETS}
    evaluator = Evaluator(arguments.kit, tokenizer, sets)
    for name, figures in evaluator(load_teacher(arguments.teacher)).items():
        sys.stdout.write(json.dumps({"set": name, **figures}) + "\n")


if __name__ == "__main__":
    main()
