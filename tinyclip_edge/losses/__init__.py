"""Training objectives as pure functions of features."""

from __future__ import annotations

from tinyclip_edge.losses.affinity import AffinityTerms, affinity_loss
from tinyclip_edge.losses.contrastive import contrastive_loss
from tinyclip_edge.losses.feature import FeatureKind, FeatureProjector, feature_loss
from tinyclip_edge.losses.gather import gather_with_grad
from tinyclip_edge.losses.objective import (
    EmbeddedBatch,
    LossTerm,
    Objective,
    PairEmbeddings,
    TermValue,
)

__all__ = [
    "AffinityTerms",
    "EmbeddedBatch",
    "FeatureKind",
    "FeatureProjector",
    "LossTerm",
    "Objective",
    "PairEmbeddings",
    "TermValue",
    "affinity_loss",
    "contrastive_loss",
    "feature_loss",
    "gather_with_grad",
]
