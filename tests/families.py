"""Parameters of tests over families of models; one of each kind of tower is in the quick tests."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace

import pytest
import torch

from tinyclip_edge.families import building
from tinyclip_edge.families.siblings import (
    CONVOLUTIONS,
    ENCODERS,
    EVERY,
    FAMILIES,
    M2M_100,
    MT5,
    ROBERTA,
)

__all__ = [
    "CONVOLUTIONS",
    "ENCODERS",
    "EVERY",
    "FAMILIES",
    "M2M_100",
    "MT5",
    "ROBERTA",
    "families",
    "family",
    "representatives",
]

# One family of each kind of tower; the others are tested in `make ci`.
OF_EACH_KIND = ("ViT", "SigLIP 2", "EVA02", "XLM-R", "mT5", "NLLB", "MobileCLIP 2")

# Made of towers that another family has: their students are trained by `make slow` alone.
ALIKE = ("CLIPA", "MetaCLIP 2 worldwide", "MetaCLIP 2 worldwide, XLM-V", "RoBERTa", "AltCLIP",
         "ChineseCLIP", "MobileCLIP 2, five stages")  # fmt: skip


def family(name, **changes):
    """A sibling of its own, a copy of the first one that was built so in this process."""
    clip, random_state = _built(name, json.dumps(changes, sort_keys=True))
    torch.set_rng_state(random_state)
    return replace(clip, model=copy.deepcopy(clip.model), config=copy.deepcopy(clip.config))


@functools.cache
def _built(name, changes):
    """A sibling, and torch's random state after its weights."""
    return building.family(name, **json.loads(changes)), torch.get_rng_state()


def representatives(cases):
    """Parameters of a slow test: names of families, or tuples that begin with one."""
    return [
        pytest.param(*values, marks=[pytest.mark.hours] if values[0] in ALIKE else [])
        for values in ((case,) if isinstance(case, str) else case for case in cases)
    ]


def families(names, quick=OF_EACH_KIND):
    """Parameters of a test, of which one of each kind of tower is not slow."""
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]
