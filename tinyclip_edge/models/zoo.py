"""Shapes of students that have a name: two of the starter teacher, and the published TinyCLIPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One named shape; what ``model_cfg`` leaves out is taken from the teacher."""

    name: str
    kind: Literal["starter", "published"]
    teacher: str  # MODEL string of the teacher it is meant for
    model_cfg: dict[str, Any]  # open_clip model config, partial for starter students
    imagenet_top1: float | None = None  # zero-shot per cent, as published
    pretrained_on: str | None = None  # data of the published weights


def _starter(name: str, vision: tuple[int, int], text: tuple[int, int]) -> ZooEntry:
    """Shape from (width, layers) of both towers."""
    config = {
        "vision_cfg": {"width": vision[0], "layers": vision[1]},
        "text_cfg": {"width": text[0], "heads": text[0] // 64, "layers": text[1]},
    }
    return ZooEntry(name, "starter", "starter-teacher", config)


def _published(
    name: str,
    vision: dict[str, Any],
    text: tuple[int, int],
    *,
    teacher: str,
    top1: float,
    data: str,
    embed_dim: int = 512,
) -> ZooEntry:
    config = {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": 224, **vision},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": text[0],
            "heads": text[0] // 64,
            "layers": text[1],
        },
    }
    return ZooEntry(name, "published", teacher, config, top1, data)


_B16 = "ViT-B-16/laion2b_s34b_b88k"
_B32 = "ViT-B-32/laion2b_s34b_b79k"
_RN50 = "RN50/openai"

# Accuracies: model table of the TinyCLIP repository (arXiv 2309.12314).
_ENTRIES = (
    # Layers go rather than channels: at equal size and steps that kept far more of the teacher.
    _starter("starter-50", vision=(256, 3), text=(256, 1)),
    _starter("starter-15", vision=(128, 3), text=(128, 2)),
    _published(
        "TinyCLIP-ViT-39M-16-Text-19M",
        {"layers": 12, "width": 512, "patch_size": 16},
        (512, 6),
        teacher=_B16,
        top1=63.5,
        data="YFCC-15M",
    ),
    _published(
        "TinyCLIP-ViT-8M-16-Text-3M",
        {"layers": 10, "width": 256, "patch_size": 16},
        (256, 3),
        teacher=_B16,
        top1=41.1,
        data="YFCC-15M",
    ),
    _published(
        "TinyCLIP-ViT-61M-32-Text-29M",
        {"layers": 12, "width": 640, "patch_size": 32},
        (512, 9),
        teacher=_B32,
        top1=62.4,
        data="LAION-400M",
    ),
    _published(
        "TinyCLIP-ViT-40M-32-Text-19M",
        {"layers": 12, "width": 512, "patch_size": 32},
        (512, 6),
        teacher=_B32,
        top1=59.8,
        data="LAION-400M",
    ),
    _published(
        "TinyCLIP-ResNet-30M-Text-29M",
        {"layers": [3, 4, 6, 3], "width": 56, "patch_size": None},
        (512, 9),
        teacher=_RN50,
        top1=59.1,
        data="LAION-400M",
        embed_dim=1024,
    ),
    _published(
        "TinyCLIP-ResNet-19M-Text-19M",
        {"layers": [3, 4, 6, 3], "width": 44, "patch_size": None},
        (512, 6),
        teacher=_RN50,
        top1=56.4,
        data="LAION-400M",
        embed_dim=1024,
    ),
)

ZOO: dict[str, ZooEntry] = {entry.name: entry for entry in _ENTRIES}
