"""Sizes of the natural-image benchmark for a GPU, two CPU cores or a smoke test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TEXT = {"context_length": 20, "width": 256, "heads": 4}
STUDENT_CROP = (0.35, 1.0)  # the crops of every arm; the teacher's are stronger
FLIP, COLOUR = 0.5, 0.4


@dataclass(frozen=True, slots=True)
class Profile:
    """Teacher, the students cut from it, and lengths. An epoch has every training picture once."""

    teacher: dict[str, Any]  # open_clip model_cfg
    half: dict[str, Any]  # half of the teacher's encoder parameters
    tiny: dict[str, Any]  # 8.9 % of them
    wide: dict[str, Any]  # half, shaped as published: narrower, with all image layers
    stages: tuple[dict[str, Any], ...]  # a quarter in three steps
    keep: float  # of the prunable parameters, for masks that end at the size of half
    epochs: int  # of the teacher
    teacher_batch: int
    steps: int  # of an arm
    tuning_steps: int
    batch: int  # of an arm: pictures of distinct classes
    classes: int = 200
    most: int | None = None  # maximum number of pictures per class


def clip(vision: tuple[int, int, float], text: tuple[int, float]) -> dict[str, Any]:
    """Return a model_cfg of (width, layers, MLP ratio) and (layers, MLP ratio)."""
    width, layers, ratio = vision
    return {
        "vision_cfg": {"width": width, "layers": layers, "head_width": 64, "mlp_ratio": ratio},
        "text_cfg": {"width": 256, "heads": 4, "layers": text[0], "mlp_ratio": text[1]},
    }


def teacher(width: int, layers: int, patch: int, text_layers: int) -> dict[str, Any]:
    return {
        "embed_dim": 256,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": patch,
            "width": width,
            "layers": layers,
            "head_width": 64,
        },
        "text_cfg": {
            **TEXT,
            "layers": text_layers,
            "vocab_size": 0,  # the tokenizer's
            "hf_tokenizer_name": "tokenizer.json",
            "tokenizer_kwargs": {"strip_sep_token": True},
        },
    }


PROFILES = {
    "gpu": Profile(
        teacher=teacher(384, 9, 8, 4),
        half=clip((384, 6, 2.0), (3, 3.75)),
        tiny=clip((192, 4, 1.45), (1, 2.0)),
        wide=clip((256, 9, 4.0), (3, 4.0)),
        stages=(
            clip((384, 7, 3.0), (3, 3.0)),
            clip((384, 5, 2.25), (2, 2.25)),
            clip((384, 4, 1.5), (2, 1.5)),
        ),
        keep=0.49,
        epochs=100,
        teacher_batch=1024,
        steps=1800,
        tuning_steps=300,
        batch=200,
    ),
    "cpu": Profile(
        teacher=teacher(256, 6, 16, 3),
        half=clip((256, 4, 2.0), (2, 4.0)),
        tiny=clip((128, 3, 1.5), (1, 1.0)),
        wide=clip((192, 6, 4.0), (2, 4.0)),
        stages=(
            clip((256, 5, 3.0), (3, 3.0)),
            clip((256, 4, 2.0), (2, 2.0)),
            clip((256, 3, 1.5), (1, 1.5)),
        ),
        keep=0.49,
        epochs=20,
        teacher_batch=256,
        steps=1200,
        tuning_steps=300,
        batch=200,
    ),
    "smoke": Profile(
        teacher=teacher(128, 4, 16, 2),
        half=clip((128, 3, 2.0), (1, 4.0)),
        tiny=clip((64, 2, 1.0), (1, 1.0)),
        wide=clip((64, 4, 4.0), (2, 4.0)),
        stages=(
            clip((128, 4, 3.0), (2, 3.0)),
            clip((128, 3, 2.0), (2, 2.0)),
            clip((128, 2, 1.0), (1, 1.0)),
        ),
        keep=0.49,
        epochs=2,
        teacher_batch=32,
        steps=30,
        tuning_steps=6,
        batch=10,
        classes=10,
        most=12,
    ),
}
