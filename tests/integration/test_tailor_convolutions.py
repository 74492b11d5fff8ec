"""Tailoring with teachers of convolutions: a ResNet and a FastViT, from pictures to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tinyclip_edge
from kit_part import write_own_pictures
from tinyclip_edge.runtime.classifier import EdgeClassifier

CONCEPTS, EACH = 12, 4
TEACHERS: dict[str, dict[str, Any]] = {
    "ResNet": {"layers": [2, 1, 1, 1], "width": 16, "image_size": 64, "patch_size": None},
    "FastViT": {
        "timm_model_name": "fastvit_mci0", "timm_model_pretrained": False, "timm_pool": "avg",
        "timm_proj": None, "layers": [1, 1, 2, 1], "width": 16, "image_size": 64,
    },
}  # fmt: skip
# Megabytes into which a student of the teacher's shape fits in int8, but not the teacher in fp32.
BUDGETS = {"ResNet": 3.0, "FastViT": 1.2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Four pictures of each of twelve concepts, and the labels."""
    return write_own_pictures(tmp_path_factory.mktemp("own"), concepts=CONCEPTS, each=EACH)


def made_teacher(pictures: Path, kind: str) -> Path:
    """Teach these pictures to a tower of convolutions, beside the starter teacher's text tower."""
    run = pictures / kind / "teacher"
    tinyclip_edge.distill(
        {
            "name": "teacher",
            "teacher": {"model": "starter-teacher"},
            "student": {"model": {"vision_cfg": TEACHERS[kind]}},
            "inherit": {"image": "fresh", "text": "frozen"},
            "loss": {"affinity": 1.0, "feature": 1000.0},
            "data": {
                "images": str(pictures / "pictures"),
                "texts": str(pictures / "labels.txt"),
            },
            "optim": {"lr": 3e-3, "batch_size": 48, "steps": 100, "warmup": 0.1},
        },
        run,
    )
    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_of_convolutions_is_tailored(pictures, kind, towers_exported_once):
    teacher = made_teacher(pictures, kind)
    report = tinyclip_edge.tailor(
        pictures / "pictures",
        pictures / "labels.txt",
        pictures / kind / "bundle",
        work=pictures / kind / "work",
        teacher=str(teacher),
        max_mb=BUDGETS[kind],
        max_ms=1e6,
        minutes=0.1,
        candidates=1,
    )
    entries = {entry.name: entry for entry in report.entries}
    candidates = [entry for entry in report.entries if entry.kind == "candidate"]
    assert [entry.name for entry in candidates] == [report.winner]
    assert all(entry.mb <= BUDGETS[kind] < entries["teacher"].mb for entry in candidates)
    assert report.winner.startswith("L") and report.winner.count(".") == 3
    assert ("-N" in report.winner) == (kind == "FastViT")
    assert entries["bundle"].mb <= 1.05 * BUDGETS[kind]
    classifier = EdgeClassifier.load(pictures / kind / "bundle")
    own = sorted((pictures / "pictures").rglob("*.webp"))
    answers = [classifier.classify(picture)[0][0].replace(" ", "_") for picture in own]
    right = sum(a == p.parent.name for a, p in zip(answers, own, strict=True))
    assert right > 0.4 * len(own)  # 1 in 12 by chance
