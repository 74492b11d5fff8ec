"""Class names to class embeddings: prompt templates, averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.limits import TEXTS_BYTES
from tinyclip_edge.runtime.inputs import label_list
from tinyclip_edge.runtime.protocol import Embedder, Features, TextTokens

Real = TypeVar("Real", np.float32, np.float64)

_LABEL_CHARS = 60  # characters of a label in a message


def fill_templates(labels: Iterable[str], templates: Iterable[str]) -> list[str]:
    """Return each label in every template, label by label.

    Raise DataError for no label, no template, a template without ``{}``, or prompts that are too
    long in total.
    """
    labels, templates = label_list(labels), label_list(templates, "templates")
    if not labels:
        raise DataError("the list of labels is empty; give at least one label")
    if not templates:
        raise DataError('the list of templates is empty; "{}" stands for the label alone')
    for template in templates:
        if "{}" not in template:
            raise DataError(f"template {_short(template)} has no {{}} for the label")
    size = prompt_chars(labels, templates)
    if size > TEXTS_BYTES:
        raise DataError(
            f"labels and templates make prompts of {size:,} characters; use at most {TEXTS_BYTES:,}"
        )
    return [template.replace("{}", label) for label in labels for template in templates]


def prompt_chars(labels: Sequence[str], templates: Sequence[str]) -> int:
    """Return the number of characters of all prompts, without building them."""
    label_chars, places = sum(map(len, labels)), [t.count("{}") for t in templates]
    fixed = sum(map(len, templates)) - 2 * sum(places)
    return fixed * len(labels) + sum(places) * label_chars


def class_features(
    embedder: Embedder, labels: Iterable[str], templates: Iterable[str] = ("{}",)
) -> Features:
    """Return float32 ``[C, D]``, unit norm: the mean embedding of a label in every template.

    Raise DataError for no label, no template, or a template without ``{}``.
    """
    labels, templates = label_list(labels), label_list(templates, "templates")
    prompts = fill_templates(labels, templates)
    features = embedder.encode_text(prompts).reshape(len(labels), len(templates), -1)
    mean = features.mean(axis=1)
    unit: Features = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return unit


def check_prompts(
    model: object, labels: Sequence[str], templates: Sequence[str] = ("{}",)
) -> tuple[str, ...]:
    """Return a note if the model's context truncates prompts.

    Raise DataError for two labels whose prompts are the same token ids: the model cannot tell them
    apart, and they would share one probability. A model without ``TextTokens`` is not checked.
    """
    if not isinstance(model, TextTokens):
        return ()
    prompts = fill_templates(labels, templates)
    step = len(prompts) // len(labels)
    rows = [prompts[start : start + step] for start in range(0, len(prompts), step)]
    # Most labels differ in their first prompt; only the others are compared in full.
    same: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        same[tuple(model.token_ids(row[0]))].append(i)
    for places in same.values():
        _refuse_equal(model, labels, [(i, rows[i]) for i in places])
    cut = [prompt for prompt in prompts if not model.fits_context(prompt)]
    if not cut:
        return ()
    return (
        f"{len(cut):,} of {len(prompts):,} prompts are longer than the model's "
        f"{model.context_length} tokens and are truncated: {_short(cut[0])}",
    )


def _refuse_equal(
    model: TextTokens, labels: Sequence[str], candidates: Sequence[tuple[int, Sequence[str]]]
) -> None:
    if len(candidates) < 2:
        return
    first: dict[tuple[tuple[int, ...], ...], tuple[int, Sequence[str]]] = {}
    for i, row in candidates:
        earlier = first.setdefault(tuple(tuple(model.token_ids(text)) for text in row), (i, row))
        if earlier[0] == i:
            continue
        if labels[earlier[0]] == labels[i]:
            raise DataError(f"label {_short(labels[i])} appears more than once; remove the repeats")
        both = f"labels {_short(labels[earlier[0]])} and {_short(labels[i])}"
        if not all(model.fits_context(text) for text in (*row, *earlier[1])):
            raise DataError(
                f"{both} are the same after truncation to the model's {model.context_length} "
                "tokens; shorten the labels or the templates"
            )
        raise DataError(f"{both} become the same tokens; reword or remove one")


def _short(text: str) -> str:
    return repr(text if len(text) <= _LABEL_CHARS else text[:_LABEL_CHARS] + "…")


def probabilities(logits: npt.NDArray[Real], bias: float | None) -> npt.NDArray[Real]:
    """Return ``[..., C]``: softmax over C labels, or with a ``bias`` the sigmoid of each."""
    if bias is not None:
        # tanh does not overflow where exp would.
        return np.asarray(0.5 + 0.5 * np.tanh((logits + bias) / 2))
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
