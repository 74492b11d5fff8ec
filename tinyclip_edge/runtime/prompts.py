"""Class names to class embeddings: prompt templates, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import Embedder, Features


def class_features(
    embedder: Embedder, labels: Sequence[str], templates: Sequence[str] = ("{}",)
) -> Features:
    """Return float32 ``[C, D]``, unit norm: the mean embedding of a label in every template.

    Raise DataError for no label, no template, or a template without ``{}``.
    """
    if isinstance(labels, str) or isinstance(templates, str):
        raise DataError("labels and templates must be lists of texts, not one text")
    if not labels:
        raise DataError("the list of labels is empty; give at least one label")
    if not templates:
        raise DataError('the list of templates is empty; "{}" stands for the label alone')
    for template in templates:
        if "{}" not in template:
            raise DataError(f"template {template!r} has no {{}} to put the label in")
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    features = embedder.encode_text(prompts).reshape(len(labels), len(templates), -1)
    mean = features.mean(axis=1)
    unit: Features = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return unit


def probabilities(logits: Features, bias: float | None) -> Features:
    """Softmax over the labels, or each label's own sigmoid in a model that was trained so."""
    if bias is not None:
        # tanh does not overflow where exp would.
        return np.asarray(0.5 + 0.5 * np.tanh((logits + bias) / 2))
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
