"""Named students: two for the starter teacher, and the published TinyCLIPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tinyclip_edge.errors import ModelError, did_you_mean


@dataclass(frozen=True, slots=True)
class RoundedSize:
    """Published size of a student that has no shape before it is trained."""

    image_millions: int  # parameters
    text_millions: int  # without the token embedding
    gmacs: float  # of one pair


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One named student: a shape, or a recipe of ``stages`` that results in one.

    Keys that ``model_cfg`` omits are the teacher's.
    """

    name: str
    kind: Literal["starter", "published", "automatic"]
    teacher: str  # MODEL string of the teacher it is meant for
    model_cfg: dict[str, Any]  # open_clip model config; empty for a recipe
    imagenet_top1: float | None = None  # zero-shot per cent, as published
    pretrained_on: str | None = None  # data of the published weights
    # Share of the teacher's prunable parameters that masks keep, stage by stage.
    stages: tuple[float, ...] = ()
    size: RoundedSize | None = None  # of a recipe


@dataclass(frozen=True, slots=True)
class ZooTeacher:
    """One teacher that the zoo names."""

    name: str  # MODEL string
    imagenet_top1: float | None = None  # zero-shot per cent, as published
    pretrained_on: str | None = None


def _starter(
    name: str, vision: tuple[int, int], text: tuple[int, int], *, mlp_ratio: float = 4.0
) -> ZooEntry:
    """Return a shape from (width, layers) of both towers; ``mlp_ratio``: neurons over width."""
    config = {
        "vision_cfg": {"width": vision[0], "layers": vision[1], "mlp_ratio": mlp_ratio},
        "text_cfg": {
            "width": text[0],
            "heads": text[0] // 64,
            "layers": text[1],
            "mlp_ratio": mlp_ratio,
        },
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


def _automatic(size: RoundedSize, stages: tuple[float, ...], *, top1: float) -> ZooEntry:
    """Return the recipe of a masked student of ViT-B/32, named by its millions of parameters."""
    name = f"TinyCLIP-auto-ViT-{size.image_millions}M-32-Text-{size.text_millions}M"
    return ZooEntry(name, "automatic", _B32, {}, top1, "LAION-400M", stages, size)


_B16 = "ViT-B-16/laion2b_s34b_b88k"
_B32 = "ViT-B-32/laion2b_s34b_b79k"
_RN50 = "RN50/openai"

# Published figures: model table of the TinyCLIP repository (arXiv 2309.12314).
_ENTRIES = (
    # Fewer layers rather than channels: at equal size and steps far more of the teacher remains.
    _starter("starter-50", vision=(256, 3), text=(256, 1)),
    _starter("starter-15", vision=(192, 3), text=(192, 1), mlp_ratio=1.0),
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
    _automatic(RoundedSize(63, 31, 5.6), (0.75,), top1=63.9),
    _automatic(RoundedSize(45, 18, 3.7), (0.75, 0.5), top1=61.4),
    _automatic(RoundedSize(22, 10, 1.9), (0.75, 0.5, 0.25), top1=53.7),
)

ZOO: dict[str, ZooEntry] = {entry.name: entry for entry in _ENTRIES}

# Accuracies: open_clip's own evaluation.
_TEACHERS = (
    ZooTeacher("starter-teacher"),
    ZooTeacher(_B16, 70.2, "LAION-2B"),
    ZooTeacher(_B32, 66.6, "LAION-2B"),
    ZooTeacher(_RN50, 59.8, "OpenAI WIT"),
)

TEACHERS: dict[str, ZooTeacher] = {teacher.name: teacher for teacher in _TEACHERS}


def zoo_entry(name: str) -> ZooEntry:
    """Return a student of the zoo. Raises ModelError for an unknown name."""
    if name not in ZOO:
        raise ModelError(f"no student '{name}' in the zoo{did_you_mean(name, ZOO)}")
    return ZOO[name]


def zoo_shape(name: str) -> ZooEntry:
    """Return a student that has a shape. Raises ModelError for a recipe or an unknown name."""
    entry = zoo_entry(name)
    if entry.stages:
        raise ModelError(
            f"{name} is a recipe of stages, not a shape: set it as student.model of a run"
        )
    return entry
