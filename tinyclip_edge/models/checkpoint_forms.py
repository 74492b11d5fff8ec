"""Recognise the checkpoint forms A to J and rename their tensors to open_clip's names.

A file may combine several: training writes E inside B; pruned files are I inside B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.long_texts import is_long_clip, joined_positions
from tinyclip_edge.models.weights import listed, plain_weights, refuse_broken

FORMS = {
    "A": "open_clip's names",
    "B": "inside 'state_dict'",
    "C": "wrapped for distributed training",
    "D": "image and text encoder stored separately",
    "E": "image and text encoder stored separately, each wrapped for distributed training",
    "F": "inside 'model'",
    "G": "half-precision tensors",
    "H": "with learnable masks",
    "I": "pruned, every tower twice",
    "J": "Long-CLIP's two tables of positions",
}
_WRAPPED = "module."
_ENCODERS = {"_image_encoder.": "image", "_text_encoder.": "text", "_logit_scale.": "scale"}
_COPIES = {
    "image_encoder_without_ddp.": "image",
    "text_encoder_without_ddp.": "text",
    "logit_scale_without_ddp.": "scale",
}
_Parts: TypeAlias = "dict[tuple[str, str], Tensor]"
_GATES = "l0_module."
_LOG_ALPHA = "_loga"
_MULTIPLIERS = ("lambda_1", "lambda_2")  # of the sparsity term: training only
# Input sizes that OpenAI's files store among the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """Float32 weights under open_clip's names, with gates and arguments of their training."""

    state: dict[str, Tensor]
    forms: tuple[str, ...]
    gates: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # tower: kind: log-alphas
    arguments: dict[str, Any] = field(default_factory=dict)  # of the run that wrote it

    @property
    def description(self) -> str:
        """The forms in words."""
        return ", ".join(FORMS[letter] for letter in self.forms)


def recognise(content: object, source: str) -> PublishedCheckpoint:
    """Return the weights and forms of a checkpoint's content.

    Raises ModelError, which names the entry, for non-tensors, NaN or copies that differ.
    """
    raw, wrapping = _unwrap(content)
    weights = plain_weights(raw, source)
    half = any(t.dtype in (torch.float16, torch.bfloat16) for t in raw.values())
    refuse_broken(weights, source)
    while all(key.startswith(_WRAPPED) for key in weights):
        weights = {key.removeprefix(_WRAPPED): t for key, t in weights.items()}
        wrapping = tuple(dict.fromkeys([*wrapping, "C"]))
    separate = any(key.startswith((*_ENCODERS, *_COPIES)) for key in weights)
    checkpoint = _join(weights, source) if separate else PublishedCheckpoint(weights, ("A",))
    state = {key: t for key, t in checkpoint.state.items() if key not in _NOT_WEIGHTS}
    names = checkpoint.forms if separate or "C" not in wrapping else ()
    long = is_long_clip(state)
    return replace(
        checkpoint,
        state=joined_positions(state, source) if long else state,
        forms=(*wrapping, *names, *(("G",) if half else ()), *(("J",) if long else ())),
        arguments=_arguments(content),
    )


def _unwrap(content: object) -> tuple[Any, tuple[str, ...]]:
    """Return the table of weights and the letter of its wrapping, if any."""
    if isinstance(content, dict):
        for key, letter in (("state_dict", "B"), ("model", "F")):
            if isinstance(content.get(key), dict):
                return content[key], (letter,)
    return content, ()


def _arguments(content: object) -> dict[str, Any]:
    arguments = content.get("args") if isinstance(content, dict) else None
    table = vars(arguments) if hasattr(arguments, "__dict__") else arguments
    return dict(table) if isinstance(table, dict) else {}


def _join(weights: Mapping[str, Tensor], source: str) -> PublishedCheckpoint:
    """Merge separately stored encoders; two copies of one must be equal."""
    first, wrapped = _renamed(weights, _ENCODERS)
    second, _ = _renamed(weights, _COPIES)
    if first and second:
        _refuse_unequal(first, second, source)
    stray = [key for key in weights if not key.startswith((*_ENCODERS, *_COPIES))]
    if stray:
        raise ModelError(
            f"{source} has separate encoders, and also {listed('other tensors', stray)}"
        )
    gates: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Tensor] = {}
    for (tower, key), tensor in (first or second).items():
        name = key.removeprefix(_GATES)
        if key == name:
            # A name of the other tower gets a prefix, so that loading lists it as unknown.
            in_tower = key.startswith("visual.") == (tower == "image")
            state[key if in_tower else f"{tower} encoder: {key}"] = tensor
        elif name.endswith(_LOG_ALPHA):
            gates.setdefault(tower, {})[name.removesuffix(_LOG_ALPHA)] = tensor
        elif name not in _MULTIPLIERS:
            state[f"{tower} encoder: {key}"] = tensor
    forms = ("E" if wrapped else "D", *("H" if gates else ""), *("I" if first and second else ""))
    return PublishedCheckpoint(state, forms, gates)


def _renamed(weights: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> tuple[_Parts, bool]:
    """Return the tensors with these prefixes by (tower, bare name), and whether any was wrapped."""
    parts: _Parts = {}
    wrapped = False
    for key, tensor in weights.items():
        for prefix, tower in prefixes.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                wrapped |= name.startswith(_WRAPPED)
                parts[tower, name.removeprefix(_WRAPPED)] = tensor
    return parts, wrapped


def _refuse_unequal(first: _Parts, second: _Parts, source: str) -> None:
    # The scale has a copy only in some files.
    names = {*second, *(name for name in first if name[0] != "scale")}
    unequal = [
        f"{tower} {key}"
        for tower, key in names
        if (tower, key) not in first
        or (tower, key) not in second
        or not torch.equal(first[tower, key], second[tower, key])
    ]
    if unequal:
        raise ModelError(
            f"{source} holds every tower twice, and the copies differ in "
            f"{listed('tensors', unequal)}; it is unknown which one was trained"
        )
