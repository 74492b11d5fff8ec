"""The published students, tensor for tensor, against plain slices of a filled teacher."""

from __future__ import annotations

import re
from collections.abc import Mapping
from zlib import crc32

import numpy as np
import pytest
import torch

from tinyclip_edge.inheritance import ClipShape, inherit_uniform, plan_uniform
from tinyclip_edge.models import ZOO
from tinyclip_edge.models.build import build_model
from tinyclip_edge.models.library import open_clip

SEED = 3
PAIRS = [
    ("ViT-B-16", "TinyCLIP-ViT-39M-16-Text-19M"),
    ("ViT-B-16", "TinyCLIP-ViT-8M-16-Text-3M"),
    ("ViT-B-32", "TinyCLIP-ViT-61M-32-Text-29M"),
    ("ViT-B-32", "TinyCLIP-ViT-40M-32-Text-19M"),
    ("RN50", "TinyCLIP-ResNet-30M-Text-29M"),
    ("RN50", "TinyCLIP-ResNet-19M-Text-19M"),
    ("TinyCLIP-ViT-61M-32-Text-29M", "TinyCLIP-ViT-40M-32-Text-19M"),
]
# Large, and of one rule with tensors that are looked at.
SKIPPED = {"token_embedding.weight", "visual.attnpool.k_proj.weight"}
BLOCK = re.compile(r"(.*resblocks\.|visual\.layer\d\.)(\d+)(\..*)")


def meta_state(name):
    config = ZOO[name].model_cfg if name in ZOO else open_clip.get_model_config(name)
    with torch.device("meta"):
        return build_model(config, "test").state_dict()


class Filled(Mapping):
    """A state dict whose tensors are made when asked for: full size, little memory."""

    def __init__(self, shapes):
        self.shapes = shapes

    def array(self, key):
        shape = self.shapes[key].shape
        count = int(np.prod(shape, dtype=int))
        noise = np.random.RandomState((crc32(key.encode()) + SEED) % 2**32).bytes(2 * count)
        return np.frombuffer(noise, np.uint16).astype(np.float32).reshape(shape)

    def __getitem__(self, key):
        return torch.from_numpy(self.array(key)).to(self.shapes[key].dtype)

    def __contains__(self, key):
        return key in self.shapes

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)


def depth(state, prefix):
    return 1 + max(int(k.removeprefix(prefix).split(".")[0]) for k in state if k.startswith(prefix))


def sliced(key, teacher, student):
    """The published rule: every T // S-th block, the front of every axis; q, k and v one by one."""
    name = key
    if match := BLOCK.fullmatch(key):
        prefix, number, suffix = match.groups()
        step = depth(teacher, prefix) // depth(student, prefix)
        name = f"{prefix}{step * int(number)}{suffix}"
    value, shape = teacher.array(name), student[key].shape
    if ".attn.in_proj_" in key:
        value = np.concatenate([part[: shape[0] // 3] for part in np.split(value, 3)])
    for axis, length in enumerate(shape):
        value = value.take(range(length), axis)
    return value


def looked_at(key, student):
    """First, third and last block of every stage, and what stands outside the blocks."""
    if match := BLOCK.fullmatch(key):
        return int(match[2]) in (0, 2, depth(student, match[1]) - 1)
    return key not in SKIPPED and key != "logit_scale"


@pytest.mark.parametrize(("teacher_name", "student_name"), PAIRS)
def test_published_choice_to_the_bit(teacher_name, student_name):
    teacher, student = Filled(meta_state(teacher_name)), meta_state(student_name)
    plan = plan_uniform(ClipShape.of(teacher.shapes), ClipShape.of(student))
    keys = sorted(key for key in student if looked_at(key, student))
    fresh = {key: torch.zeros(student[key].shape, dtype=student[key].dtype) for key in keys}
    weights, report = inherit_uniform(teacher, fresh, plan)
    assert len(keys) > 60
    assert report.fresh_parameters == 0
    for key in keys:
        assert weights[key].dtype == student[key].dtype
        assert np.array_equal(weights[key].numpy(), sliced(key, teacher, student)), key


def test_two_published_stages_leave_the_first_six_text_layers():
    """12 to 9 to 6 takes layers 0 to 5, 12 to 6 at once every second one."""
    shapes = [ClipShape.of(meta_state(n)) for n in ("ViT-B-32", PAIRS[2][1], PAIRS[3][1])]
    first, second = (plan_uniform(*shapes[i : i + 2]).text.layers for i in (0, 1))
    assert tuple(first[layer] for layer in second) == (0, 1, 2, 3, 4, 5)
    assert plan_uniform(shapes[0], shapes[2]).text.layers == (0, 2, 4, 6, 8, 10)
